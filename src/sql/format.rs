//! Results as text: a table for people, JSON, CSV and TSV for programs.

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::store::query::{Cell, Output};

/// A form of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns; control characters escaped.
    #[default]
    Table,
    /// One array of objects.
    Json,
    /// RFC 4180 with LF: a header line, quotes where needed.
    Csv,
    /// A header line; tabs, newlines and backslashes escaped.
    Tsv,
}

impl Format {
    /// Reads a format's name.
    pub fn from_word(word: &str) -> Option<Format> {
        Some(match word {
            "table" => Format::Table,
            "json" => Format::Json,
            "csv" => Format::Csv,
            "tsv" => Format::Tsv,
            _ => return None,
        })
    }
}

/// Writes results in a format.
pub struct Printer<'w> {
    out: &'w mut dyn Write,
    format: Format,
    names: Vec<String>,
    /// A table's lines are kept until the widths are known; past this many rows they are fixed.
    lines: Vec<Vec<(String, bool)>>,
    widths: Vec<usize>,
    rows: u64,
}

const LINES_KEPT: usize = 1000;
const WIDTH_MAX: usize = 100;

impl<'w> Printer<'w> {
    /// Begins; `finish` ends.
    pub fn new(out: &'w mut dyn Write, format: Format) -> Printer<'w> {
        Printer { out, format, names: Vec::new(), lines: Vec::new(), widths: Vec::new(), rows: 0 }
    }

    /// Writes what is still kept; returns the number of rows.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> Result<u64, String> {
        self.end_result()?;
        if self.format == Format::Json && self.names.is_empty() {
            self.write("[]\n")?;
        }
        self.out.flush().map_err(|error| error.to_string())?;
        Ok(self.rows)
    }

    fn write(&mut self, text: &str) -> Result<(), String> {
        self.out.write_all(text.as_bytes()).map_err(|error| error.to_string())
    }

    fn end_result(&mut self) -> Result<(), String> {
        match self.format {
            Format::Table => self.flush_lines(),
            Format::Json if !self.names.is_empty() => self.write(if self.rows == 0 { "[]\n" } else { "\n]\n" }),
            Format::Json | Format::Csv | Format::Tsv => Ok(()),
        }
    }

    fn flush_lines(&mut self) -> Result<(), String> {
        for line in std::mem::take(&mut self.lines) {
            let mut text = String::new();
            let last = line.len().saturating_sub(1);
            for (place, (cell, right)) in line.iter().enumerate() {
                let width = self.widths.get(place).copied().unwrap_or(0);
                let pad = width.saturating_sub(cell.chars().count());
                let padding = " ".repeat(pad);
                match (right, place == last) {
                    (true, _) => text.extend([&padding, cell.as_str()]),
                    (false, true) => text.push_str(cell),
                    (false, false) => text.extend([cell.as_str(), &padding]),
                }
                if place != last {
                    text.push_str("  ");
                }
            }
            self.write(text.trim_end())?;
            self.write("\n")?;
        }
        Ok(())
    }

    fn keep(&mut self, line: Vec<(String, bool)>) -> Result<(), String> {
        self.widths.resize(self.widths.len().max(line.len()), 0);
        for (width, (cell, _)) in self.widths.iter_mut().zip(&line) {
            *width = (*width).max(cell.chars().count().min(WIDTH_MAX));
        }
        self.lines.push(line);
        if self.lines.len() > LINES_KEPT { self.flush_lines() } else { Ok(()) }
    }
}

impl Output for Printer<'_> {
    fn columns(&mut self, names: &[&str]) -> Result<(), String> {
        self.end_result()?;
        self.names = names.iter().map(|name| (*name).to_owned()).collect();
        self.widths.clear();
        self.rows = 0;
        match self.format {
            Format::Table => {
                let header = names.iter().map(|name| (escape(name.as_bytes()), false)).collect();
                self.keep(header)
            }
            Format::Json => Ok(()),
            Format::Csv => {
                let line: Vec<String> = names.iter().map(|name| quote_csv(name)).collect();
                self.write(&format!("{}\n", line.join(",")))
            }
            Format::Tsv => {
                let line: Vec<String> = names.iter().map(|name| escape_tsv(name.as_bytes())).collect();
                self.write(&format!("{}\n", line.join("\t")))
            }
        }
    }

    fn row(&mut self, cells: Vec<Cell>) -> Result<(), String> {
        self.rows += 1;
        match self.format {
            Format::Table => {
                let line =
                    cells.iter().map(|cell| (shown(cell), matches!(cell, Cell::Int(_) | Cell::Real(_)))).collect();
                self.keep(line)
            }
            Format::Json => {
                let mut object = Map::new();
                for (name, cell) in self.names.iter().zip(cells) {
                    let (value, bytes) = json(cell);
                    object.insert(name.clone(), value);
                    if let Some(bytes) = bytes {
                        object.insert(format!("{name}_bytes"), bytes);
                    }
                }
                let text = Value::Object(object).to_string();
                let before = if self.rows == 1 { "[\n  " } else { ",\n  " };
                self.write(before)?;
                self.write(&text)
            }
            Format::Csv => {
                let line: Vec<String> = cells.iter().map(|cell| quote_csv(&plain(cell))).collect();
                self.write(&format!("{}\n", line.join(",")))
            }
            Format::Tsv => {
                let line: Vec<String> = cells
                    .iter()
                    .map(|cell| match cell.as_bytes() {
                        Some(bytes) => escape_tsv(bytes),
                        None => plain(cell),
                    })
                    .collect();
                self.write(&format!("{}\n", line.join("\t")))
            }
        }
    }
}

/// For people: no control character reaches a terminal.
fn shown(cell: &Cell) -> String {
    match cell.as_bytes() {
        Some(bytes) => escape(bytes),
        None => plain(cell),
    }
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\\' => text.push_str("\\\\"),
                c if c.is_control() || is_bidi(c) => text.extend(c.escape_unicode()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Characters that reorder what follows them on a terminal.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn plain(cell: &Cell) -> String {
    match cell {
        Cell::Null => String::new(),
        Cell::Int(value) => value.to_string(),
        Cell::Real(value) => value.to_string(),
        Cell::Text(text) => text.clone(),
        Cell::Blob(bytes) => escape(bytes),
    }
}

fn quote_csv(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

fn escape_tsv(bytes: &[u8]) -> String {
    escape(bytes)
}

/// A JSON value, and the bytes where text cannot hold them.
fn json(cell: Cell) -> (Value, Option<Value>) {
    match cell {
        Cell::Null => (Value::Null, None),
        Cell::Int(value) => (value.into(), None),
        Cell::Real(value) => (value.into(), None),
        Cell::Text(text) => (text.into(), None),
        Cell::Blob(bytes) => {
            let encoded = STANDARD.encode(&bytes);
            (escape(&bytes).into(), Some(encoded.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(format: Format, rows: &[Vec<Cell>]) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, format);
        printer.columns(&["path", "size"]).unwrap();
        for row in rows {
            printer.row(row.clone()).unwrap();
        }
        assert_eq!(printer.finish().unwrap(), rows.len() as u64);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_format_holds_hostile_names() {
        let rows = [vec!["/a\n\x1b[2J\"b\",c".into(), Cell::Int(7)], vec![Cell::Blob(b"/\xff\t".to_vec()), Cell::Null]];
        assert_eq!(print(Format::Table, &rows), "path                size\n/a\\n\\u{1b}[2J\"b\",c     7\n/\\xff\\t\n");
        assert_eq!(print(Format::Csv, &rows), "path,size\n\"/a\n\x1b[2J\"\"b\"\",c\",7\n/\\xff\\t,\n");
        assert_eq!(print(Format::Tsv, &rows), "path\tsize\n/a\\n\\u{1b}[2J\"b\",c\t7\n/\\xff\\t\t\n");
        let parsed: Value = serde_json::from_str(&print(Format::Json, &rows)).unwrap();
        assert_eq!(parsed[0]["path"], "/a\n\x1b[2J\"b\",c");
        assert_eq!(parsed[1]["path"], "/\\xff\\t");
        assert_eq!(parsed[1]["path_bytes"], STANDARD.encode(b"/\xff\t"));
        assert_eq!(parsed[1]["size"], Value::Null);
    }

    #[test]
    fn nothing_found_is_an_empty_array() {
        assert_eq!(print(Format::Json, &[]), "[]\n");
        assert_eq!(print(Format::Csv, &[]), "path,size\n");
    }
}
