//! Lines of the shell: words, quotes, redirections, pipes, and what joins commands.

use std::fmt;

/// A stretch of a word; what was quoted is no pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether it was quoted or escaped.
    pub quoted: bool,
}

/// A word as typed, before patterns in it are expanded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word(pub Vec<Piece>);

impl Word {
    /// The word with its quotes removed.
    pub fn text(&self) -> Vec<u8> {
        self.0.iter().flat_map(|piece| piece.bytes.iter().copied()).collect()
    }

    /// Whether it holds a pattern.
    pub fn is_pattern(&self) -> bool {
        self.0.iter().any(|piece| !piece.quoted && piece.bytes.iter().any(|byte| b"*?[".contains(byte)))
    }

    fn push(&mut self, byte: u8, quoted: bool) {
        match self.0.last_mut() {
            Some(piece) if piece.quoted == quoted => piece.bytes.push(byte),
            Some(_) | None => self.0.push(Piece { bytes: vec![byte], quoted }),
        }
    }
}

/// Where a command's output goes, or its input comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// `< FILE`
    From(Word),
    /// `> FILE`
    To(Word),
    /// `>> FILE`
    Append(Word),
}

/// One command of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Its name and arguments.
    pub words: Vec<Word>,
    /// Its redirections, in order.
    pub redirects: Vec<Redirect>,
}

/// What stands between a pipeline and the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// `;`, a new line, or nothing.
    Then,
    /// `&&`
    And,
    /// `||`
    Or,
}

/// Commands joined by `|`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pipeline {
    /// How it depends on the one before.
    pub join: Join,
    /// Its commands; at least one.
    pub commands: Vec<Command>,
}

/// Why a line cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// It goes on: an open quote, a backslash or an operator at its end.
    Unfinished,
    /// A word is missing after this operator.
    Missing(&'static str),
    /// What shells know and this one does not.
    Unknown(&'static str),
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParseError::Unfinished => write!(f, "the line ends inside of a quote or after an operator"),
            ParseError::Missing(what) => write!(f, "a word is missing at `{what}`"),
            ParseError::Unknown(what) => write!(f, "`{what}` is not known here; quote it if it is meant as text"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(Word),
    Operator(&'static str),
}

/// Operators, the longer ones first.
const OPERATORS: &[&str] = &["&&", "||", ">>", ";", "\n", "|", ">", "<", "&", "(", ")"];

fn tokens(line: &[u8]) -> Result<Vec<Token>, ParseError> {
    let mut tokens = Vec::new();
    let mut word: Option<Word> = None;
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        let operator = OPERATORS.iter().find(|operator| rest.starts_with(operator.as_bytes()));
        match (byte, operator) {
            (_, Some(operator)) => {
                tokens.extend(word.take().map(Token::Word));
                tokens.push(Token::Operator(operator));
                rest = rest.get(operator.len()..).unwrap_or_default();
                continue;
            }
            (b' ' | b'\t' | b'\r', None) => tokens.extend(word.take().map(Token::Word)),
            (b'#', None) if word.is_none() => {
                let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                rest = rest.get(end..).unwrap_or_default();
                continue;
            }
            (b'\\', None) => {
                let (&next, after) = after.split_first().ok_or(ParseError::Unfinished)?;
                if next != b'\n' {
                    word.get_or_insert_default().push(next, true);
                }
                rest = after;
                continue;
            }
            (b'\'' | b'"', None) => {
                rest = quoted(byte, after, word.get_or_insert_default())?;
                continue;
            }
            (_, None) => word.get_or_insert_default().push(byte, false),
        }
        rest = after;
    }
    tokens.extend(word.take().map(Token::Word));
    Ok(tokens)
}

/// Reads up to the closing quote; returns what follows it.
fn quoted<'l>(quote: u8, mut rest: &'l [u8], word: &mut Word) -> Result<&'l [u8], ParseError> {
    // An empty pair of quotes is a word too.
    word.0.push(Piece { bytes: Vec::new(), quoted: true });
    loop {
        let (&byte, after) = rest.split_first().ok_or(ParseError::Unfinished)?;
        rest = after;
        if byte == quote {
            return Ok(rest);
        }
        if byte == b'\\' && quote == b'"' {
            let (&next, after) = rest.split_first().ok_or(ParseError::Unfinished)?;
            match next {
                b'"' | b'\\' | b'$' | b'`' => word.push(next, true),
                b'\n' => {}
                _ => {
                    word.push(byte, true);
                    word.push(next, true);
                }
            }
            rest = after;
            continue;
        }
        word.push(byte, true);
    }
}

/// Reads a line or a script.
///
/// # Errors
/// [`ParseError`]; with [`ParseError::Unfinished`], more input may finish it.
pub fn parse(line: &[u8]) -> Result<Vec<Pipeline>, ParseError> {
    let mut pipelines = Vec::new();
    let mut join = Join::Then;
    let mut commands: Vec<Command> = Vec::new();
    let mut command = Command::default();
    let mut tokens = tokens(line)?.into_iter().peekable();
    // The operator that waits for a command after it.
    let mut waiting: Option<&'static str> = None;
    while let Some(token) = tokens.next() {
        match token {
            Token::Word(word) => {
                command.words.push(word);
                waiting = None;
            }
            Token::Operator(operator @ (">" | ">>" | "<")) => {
                let Some(Token::Word(word)) = tokens.next_if(|token| matches!(token, Token::Word(_))) else {
                    return Err(ParseError::Missing(operator));
                };
                command.redirects.push(match operator {
                    ">" => Redirect::To(word),
                    ">>" => Redirect::Append(word),
                    _ => Redirect::From(word),
                });
            }
            Token::Operator(operator @ ("|" | "&&" | "||")) => {
                if command.words.is_empty() {
                    return Err(ParseError::Missing(operator));
                }
                commands.push(std::mem::take(&mut command));
                waiting = Some(operator);
                if operator != "|" {
                    pipelines.push(Pipeline { join, commands: std::mem::take(&mut commands) });
                    join = if operator == "&&" { Join::And } else { Join::Or };
                }
            }
            Token::Operator(operator @ (";" | "\n")) => {
                if let Some(waiting) = waiting {
                    if operator == "\n" {
                        continue;
                    }
                    return Err(ParseError::Missing(waiting));
                }
                if command.words.is_empty() && !command.redirects.is_empty() {
                    return Err(ParseError::Missing(">"));
                }
                if !command.words.is_empty() {
                    commands.push(std::mem::take(&mut command));
                    pipelines.push(Pipeline { join, commands: std::mem::take(&mut commands) });
                    join = Join::Then;
                }
            }
            Token::Operator(other) => return Err(ParseError::Unknown(other)),
        }
    }
    if waiting.is_some() {
        return Err(ParseError::Unfinished);
    }
    if command.words.is_empty() && !command.redirects.is_empty() {
        return Err(ParseError::Missing(">"));
    }
    if !command.words.is_empty() {
        commands.push(command);
        pipelines.push(Pipeline { join, commands });
    }
    Ok(pipelines)
}

/// Quotes a word so that the shell reads it back as it is.
pub fn quote(bytes: &[u8]) -> Vec<u8> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+:@%,=~".contains(byte) || *byte >= 0x80;
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return bytes.to_vec();
    }
    let mut quoted = vec![b'\''];
    for byte in bytes {
        match byte {
            b'\'' => quoted.extend_from_slice(b"'\\''"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(line: &str) -> Vec<String> {
        let pipelines = parse(line.as_bytes()).unwrap();
        let command = pipelines[0].commands[0].clone();
        command.words.iter().map(|word| String::from_utf8(word.text()).unwrap()).collect()
    }

    #[test]
    fn quotes_are_a_shells() {
        assert_eq!(words(r#"echo "Hello" 'a b' c\ d"#), ["echo", "Hello", "a b", "c d"]);
        assert_eq!(words(r#"echo a"b"'c'"#), ["echo", "abc"]);
        assert_eq!(words(r#"echo "" ''"#), ["echo", "", ""]);
        assert_eq!(words(r#"echo "a\"b\\c\n""#), ["echo", "a\"b\\c\\n"]);
        assert_eq!(words("echo a#b # comment"), ["echo", "a#b"]);
        assert_eq!(words("echo 'two\nlines'"), ["echo", "two\nlines"]);
    }

    #[test]
    fn only_what_is_bare_is_a_pattern() {
        let patterns: Vec<bool> =
            parse(br#"ls *.rs '*.rs' \* "a"*"#).unwrap()[0].commands[0].words.iter().map(Word::is_pattern).collect();
        assert_eq!(patterns, [false, true, false, false, true]);
    }

    #[test]
    fn pipes_redirections_and_joins() {
        let parsed = parse(b"cat f | grep x >> out && ls; pwd || echo no").unwrap();
        assert_eq!(parsed.iter().map(|p| p.join).collect::<Vec<_>>(), [Join::Then, Join::And, Join::Then, Join::Or]);
        assert_eq!(parsed[0].commands.len(), 2);
        assert!(matches!(&parsed[0].commands[1].redirects[..], [Redirect::Append(word)] if word.text() == b"out"));
        assert_eq!(parse(b"ls\n\npwd\n").unwrap().len(), 2);
        assert_eq!(parse(b"cat f |\n grep x").unwrap()[0].commands.len(), 2);
        assert_eq!(parse(b"  # nothing").unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(parse(b"echo 'open"), Err(ParseError::Unfinished));
        assert_eq!(parse(b"ls |"), Err(ParseError::Unfinished));
        assert_eq!(parse(b"ls &&"), Err(ParseError::Unfinished));
        assert_eq!(parse(b"echo >"), Err(ParseError::Missing(">")));
        assert_eq!(parse(b"> f"), Err(ParseError::Missing(">")));
        assert_eq!(parse(b"| grep"), Err(ParseError::Missing("|")));
        assert_eq!(parse(b"ls &"), Err(ParseError::Unknown("&")));
    }

    proptest! {
        #[test]
        fn a_quoted_word_is_read_back(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let line = [b"echo ", quote(&bytes).as_slice()].concat();
            let parsed = parse(&line).unwrap();
            prop_assert_eq!(parsed[0].commands[0].words[1].text(), bytes);
        }

        #[test]
        fn no_line_is_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&bytes);
        }
    }
}
