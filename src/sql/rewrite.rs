//! The one extension of the language: `T FOR SYSTEM_TIME AS OF 'REF'` becomes `T('REF')`.

/// A piece of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// White space and comments.
    Space(&'a str),
    /// A bare word.
    Word(&'a str),
    /// A quoted identifier or string, with its quotes.
    Quoted(&'a str),
    /// Anything else, one character.
    Other(&'a str),
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Token::Space(text) | Token::Word(text) | Token::Quoted(text) | Token::Other(text) => text,
        }
    }
}

/// How long the first token is, in bytes, and which.
fn first(text: &str) -> Option<(Token<'_>, &str)> {
    let initial = text.chars().next()?;
    let until = |end: Option<usize>| end.unwrap_or(text.len());
    let length = match initial {
        _ if initial.is_whitespace() => until(text.find(|c: char| !c.is_whitespace())),
        '-' if text.starts_with("--") => until(text.find('\n').map(|at| at + 1)),
        '/' if text.starts_with("/*") => until(text.get(2..)?.find("*/").map(|at| at + 4)),
        '\'' | '"' | '`' => quoted(text, initial),
        '[' => until(text.find(']').map(|at| at + 1)),
        _ if initial.is_alphanumeric() || initial == '_' => {
            until(text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')))
        }
        _ => initial.len_utf8(),
    };
    let (piece, rest) = text.split_at_checked(length)?;
    let token = match initial {
        _ if initial.is_whitespace() || piece.starts_with("--") || piece.starts_with("/*") => Token::Space(piece),
        '\'' | '"' | '`' | '[' => Token::Quoted(piece),
        _ if initial.is_alphanumeric() || initial == '_' => Token::Word(piece),
        _ => Token::Other(piece),
    };
    Some((token, rest))
}

/// The length of a quoted piece, where a doubled quote stands for one.
fn quoted(text: &str, quote: char) -> usize {
    let mut inside = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = inside.next() {
        if c == quote && inside.next_if(|(_, next)| *next == quote).is_none() {
            return at + quote.len_utf8();
        }
    }
    text.len()
}

fn tokens(mut text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    while let Some((token, rest)) = first(text) {
        tokens.push(token);
        text = rest;
    }
    tokens
}

/// Rewrites every `T FOR SYSTEM_TIME AS OF 'REF'`; all else stays as it is.
pub(super) fn rewrite(sql: &str) -> String {
    let tokens = tokens(sql);
    let mut out = String::with_capacity(sql.len());
    let mut rest = tokens.as_slice();
    while let Some((token, after)) = rest.split_first() {
        out.push_str(token.text());
        rest = after;
        if matches!(token, Token::Word(_) | Token::Quoted(_))
            && let Some((reference, after)) = clause(after)
        {
            out.push('(');
            out.push_str(reference);
            out.push(')');
            rest = after;
        }
    }
    out
}

/// Reads `FOR SYSTEM_TIME AS OF [TIMESTAMP] 'REF'` and what follows it.
fn clause<'a, 'b>(tokens: &'b [Token<'a>]) -> Option<(&'a str, &'b [Token<'a>])> {
    let mut rest = tokens;
    for keyword in ["FOR", "SYSTEM_TIME", "AS", "OF"] {
        rest = word(rest, keyword)?;
    }
    rest = word(rest, "TIMESTAMP").unwrap_or(rest);
    match skip(rest).split_first()? {
        (Token::Quoted(text) | Token::Word(text), after) => Some((text, after)),
        (Token::Space(_) | Token::Other(_), _) => None,
    }
}

fn skip<'a, 'b>(mut tokens: &'b [Token<'a>]) -> &'b [Token<'a>] {
    while let Some((Token::Space(_), after)) = tokens.split_first() {
        tokens = after;
    }
    tokens
}

fn word<'a, 'b>(tokens: &'b [Token<'a>], keyword: &str) -> Option<&'b [Token<'a>]> {
    match skip(tokens).split_first()? {
        (Token::Word(text), after) if text.eq_ignore_ascii_case(keyword) => Some(after),
        _ => None,
    }
}

/// Tells whether a text is a whole statement: it ends in a semicolon outside of quotes and comments.
pub fn complete(sql: &str) -> bool {
    let tokens = tokens(sql);
    let last = tokens.iter().rev().find(|token| !matches!(token, Token::Space(_)));
    matches!(last, Some(Token::Other(";")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_clause_becomes_an_argument() {
        let cases = [
            ("SELECT * FROM files FOR SYSTEM_TIME AS OF 'e5' f", "SELECT * FROM files('e5') f"),
            ("select path from files for system_time as of '10:40';", "select path from files('10:40');"),
            ("FROM \"files\" FOR\n SYSTEM_TIME /* x */ AS OF TIMESTAMP '2026-11-22'", "FROM \"files\"('2026-11-22')"),
            ("FROM a FOR SYSTEM_TIME AS OF 'e1' JOIN b FOR SYSTEM_TIME AS OF 'e''2'", "FROM a('e1') JOIN b('e''2')"),
        ];
        for (given, wanted) in cases {
            assert_eq!(rewrite(given), wanted);
        }
    }

    #[test]
    fn quotes_and_comments_stay() {
        for same in [
            "SELECT 'files FOR SYSTEM_TIME AS OF ''e5''' -- files FOR SYSTEM_TIME AS OF 'e5'",
            "SELECT for, system_time FROM files",
            "SELECT 'unfinished",
            "FROM files FOR SYSTEM_TIME AS OF",
            "FROM files FOR SYSTEM_TIME AS OF (1)",
        ] {
            assert_eq!(rewrite(same), same);
        }
    }

    #[test]
    fn a_statement_ends_in_a_semicolon() {
        assert!(complete("SELECT 1; -- done"));
        assert!(!complete("SELECT ';"));
        assert!(!complete("SELECT 1 -- ;"));
        assert!(!complete(""));
    }

    proptest! {
        #[test]
        fn any_text_without_the_clause_comes_back(text in "[ -~\\n\u{e9}]{0,60}") {
            prop_assume!(!text.to_ascii_uppercase().contains("SYSTEM_TIME"));
            prop_assert_eq!(rewrite(&text), text);
        }
    }
}
