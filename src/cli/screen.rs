//! What people see: lines, columns, colours where the output is a terminal, and a pager there.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Stderr, Stdout, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use jiff::tz::TimeZone;

use super::error::{Error, Result};
use super::text::{When, is_hidden};

/// A colour or weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As the terminal has it.
    Plain,
    /// Bold.
    Bold,
    /// Dim.
    Dim,
    /// What went.
    Red,
    /// What came.
    Green,
    /// What changed; points.
    Yellow,
    /// Names of places.
    Cyan,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Red => "31",
            Style::Green => "32",
            Style::Yellow => "33",
            Style::Cyan => "36",
        }
    }
}

enum Sink {
    Stdout(BufWriter<Stdout>),
    Stderr(BufWriter<Stderr>),
    Pager(Child, Option<BufWriter<ChildStdin>>),
    #[cfg(test)]
    Memory(Vec<u8>),
}

/// Where a command's result is written to.
pub struct Screen {
    sink: Sink,
    color: bool,
    terminal: bool,
    /// The zone that times are shown in.
    pub zone: TimeZone,
}

impl Screen {
    /// Standard output; through a pager where it is a terminal and `paged`.
    pub fn open(zone: TimeZone, paged: bool) -> Screen {
        let terminal = io::stdout().is_terminal();
        let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let sink = match if terminal && paged { pager() } else { None } {
            Some(sink) => sink,
            None => Sink::Stdout(BufWriter::new(io::stdout())),
        };
        Screen { sink, color, terminal, zone }
    }

    /// Standard error, for what a command that passes another's output through has to say.
    pub fn errors(zone: TimeZone) -> Screen {
        let terminal = io::stderr().is_terminal();
        let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Screen { sink: Sink::Stderr(BufWriter::new(io::stderr())), color, terminal, zone }
    }

    /// Collects what is written, for tests of rendering.
    #[cfg(test)]
    pub fn memory(zone: TimeZone) -> Screen {
        Screen { sink: Sink::Memory(Vec::new()), color: false, terminal: false, zone }
    }

    /// What was collected.
    #[cfg(test)]
    pub fn collected(&self) -> String {
        match &self.sink {
            Sink::Memory(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Sink::Stdout(_) | Sink::Stderr(_) | Sink::Pager(..) => String::new(),
        }
    }

    /// Text in a style, on a terminal.
    pub fn paint(&self, style: Style, text: impl Display) -> String {
        if self.color && style != Style::Plain {
            format!("\x1b[{}m{text}\x1b[0m", style.code())
        } else {
            text.to_string()
        }
    }

    /// An instant in the user's zone.
    pub fn time(&self, when: When) -> String {
        when.shown(&self.zone)
    }

    /// Writes a line.
    ///
    /// # Errors
    /// Where the output cannot be written.
    pub fn line(&mut self, text: impl Display) -> Result<()> {
        writeln!(self, "{text}").map_err(output_error)
    }

    /// Writes bytes as they are, which must be fit for where they go.
    ///
    /// # Errors
    /// Where the output cannot be written.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(output_error)
    }

    /// Writes a document for programs (JSON, CSV): as it is, but on a terminal, where every control
    /// character becomes `\u001b`, as JSON writes it.
    ///
    /// # Errors
    /// Where the output cannot be written.
    pub fn document(&mut self, bytes: &[u8]) -> Result<()> {
        if !self.terminal {
            return self.raw(bytes);
        }
        self.raw(tame(&String::from_utf8_lossy(bytes)).as_bytes())
    }

    /// Writes rows in columns, each as wide as its widest cell; the last is not padded.
    ///
    /// # Errors
    /// Where the output cannot be written.
    pub fn columns(&mut self, rows: &[Vec<(Style, String)>]) -> Result<()> {
        let mut widths: Vec<usize> = Vec::new();
        for row in rows {
            for (index, (_, cell)) in row.iter().enumerate() {
                let width = cell.chars().count();
                match widths.get_mut(index) {
                    Some(widest) => *widest = width.max(*widest),
                    None => widths.push(width),
                }
            }
        }
        for row in rows {
            let mut line = String::new();
            for (index, ((style, cell), width)) in row.iter().zip(&widths).enumerate() {
                line.push_str(&self.paint(*style, cell));
                if index + 1 < row.len() {
                    let gap = width.saturating_sub(cell.chars().count()) + 2;
                    line.extend(std::iter::repeat_n(' ', gap));
                }
            }
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    /// Writes everything out and waits for the pager.
    ///
    /// # Errors
    /// Where the output cannot be written.
    pub fn finish(mut self) -> Result<()> {
        self.flush().map_err(output_error)?;
        self.end();
        Ok(())
    }

    fn end(&mut self) {
        if let Sink::Pager(child, pipe) = &mut self.sink {
            drop(pipe.take());
            if let Err(error) = child.wait() {
                log::debug!("pager: {error}");
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.end();
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Sink::Stdout(out) => out.write(bytes),
            Sink::Stderr(out) => out.write(bytes),
            Sink::Pager(_, Some(pipe)) => pipe.write(bytes),
            Sink::Pager(_, None) => Err(io::ErrorKind::BrokenPipe.into()),
            #[cfg(test)]
            Sink::Memory(memory) => memory.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Stdout(out) => out.flush(),
            Sink::Stderr(out) => out.flush(),
            Sink::Pager(_, Some(pipe)) => pipe.flush(),
            Sink::Pager(_, None) => Ok(()),
            #[cfg(test)]
            Sink::Memory(_) => Ok(()),
        }
    }
}

/// Text in which a terminal finds nothing to act on.
fn tame(text: &str) -> String {
    let mut tamed = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => tamed.push(c),
            c if is_hidden(c) => tamed.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => tamed.push(c),
        }
    }
    tamed
}

/// The message of the error that means "the reader of our output has seen enough".
pub const OUTPUT_CLOSED: &str = "standard output was closed";

fn output_error(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Error::failed(OUTPUT_CLOSED)
    } else {
        Error::from(error).about(b"standard output")
    }
}

/// Starts `$PAGER`, or `less -RFX`.
fn pager() -> Option<Sink> {
    let chosen = std::env::var("PAGER").unwrap_or_default();
    let mut words = shlex::split(&chosen).unwrap_or_default().into_iter();
    let mut command = match words.next() {
        Some(program) if program == "cat" => return None,
        Some(program) => {
            let mut command = Command::new(program);
            command.args(words);
            command
        }
        None => {
            let mut command = Command::new("less");
            command.arg("-RFX");
            command
        }
    };
    if std::env::var_os("LESS").is_none() {
        command.env("LESS", "RFX");
    }
    let mut child = command.stdin(Stdio::piped()).spawn().ok()?;
    let pipe = child.stdin.take()?;
    Some(Sink::Pager(child, Some(BufWriter::new(pipe))))
}

/// A number of bytes for people.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = "KiB";
    for next in UNITS.iter().skip(1) {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_do_not_end_in_blanks() {
        let mut screen = Screen::memory(TimeZone::UTC);
        let cell = |text: &str| (Style::Plain, text.to_owned());
        screen.columns(&[vec![cell("a"), cell("bb"), cell("c")], vec![cell("aaa"), cell("b"), cell("")]]).unwrap();
        assert_eq!(screen.collected(), "a    bb  c\naaa  b\n");
    }

    #[test]
    fn documents_on_a_terminal_hold_no_control_character() {
        assert_eq!(tame("\"a\x1b[2J\u{9b}\u{202e}\"\n\t\u{e9}"), "\"a\\u001b[2J\\u009b\\u202e\"\n\t\u{e9}");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
    }
}
