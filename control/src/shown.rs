//! Text of others on its way to a terminal or a log. Names in objects, files and answers may hold anything: a control
//! character there moves the cursor, colours the rest or makes a line that looks like one of ours.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, Write};

use tracing_subscriber::field::{MakeExt, RecordFields};
use tracing_subscriber::fmt::format::{self, FormatFields, Writer};

/// The text on one line, its control and direction characters as `\u001b`. JSON reads that as the same text.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    escaped(text, |c| strange(c) || c == '\n')
}

fn escaped(text: &str, wrong: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&wrong) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if wrong(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// What does more than stand there: C0 but for the line's end, DEL, C1, what turns or hides text, and what some take for
/// a line's end.
fn strange(c: char) -> bool {
    (c.is_control() && c != '\n')
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Every string in the JSON, as [`shown`].
pub fn show_all(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::String(text) => {
            if let Cow::Owned(safe) = shown(text) {
                *text = safe;
            }
        }
        Value::Array(list) => list.iter_mut().for_each(show_all),
        Value::Object(map) => map.values_mut().for_each(show_all),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A terminal, or what stands for one: nothing but lines of visible text passes, whoever forgot to escape. What is written
/// at a time must not end within a character.
#[derive(Debug)]
pub struct Plain<W>(pub W);

impl<W: Write> Write for Plain<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.0.write_all(escaped(&text, strange).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// How the fields of a log line are written: each on this line, as [`shown`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let each = format::debug_fn(|writer, field, value| {
            let text = format!("{value:?}");
            match field.name() {
                "message" => write!(writer, "{}", shown(&text)),
                name => write!(writer, "{name}={}", shown(&text)),
            }
        });
        each.delimited(" ").format_fields(writer, fields)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const NASTY: &str = "a\u{1b}[31m\r\n\u{7}\u{9b}2J\u{7f}\u{202e}b\u{2028}\u{200b}\u{e0041}\t\0";

    #[test]
    fn what_moves_turns_or_hides_text_is_written_out_and_the_rest_stands() {
        let safe = "a\\u001b[31m\\u000d\\u000a\\u0007\\u009b2J\\u007f\\u202eb\\u2028\\u200b\\udb40\\udc41\\u0009\\u0000";
        assert_eq!(shown(NASTY), safe);
        assert!(matches!(shown("größe 日本 web-1 \\ \"x\""), Cow::Borrowed(_)));
        let json: String = serde_json::from_str(&format!("\"{safe}\"")).unwrap();
        assert_eq!(json, NASTY, "in JSON it is the same text");
    }

    #[test]
    fn a_terminal_gets_lines_and_nothing_else() {
        let mut out = Plain(Vec::new());
        out.write_all(b"one\x1b[2J\ntwo\xc2\x9b\n\xff").unwrap();
        assert_eq!(String::from_utf8(out.0).unwrap(), "one\\u001b[2J\ntwo\\u009b\n\u{fffd}");
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_line_is_one_line_whatever_its_fields_hold() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(Fields)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(remedy = NASTY, error = %NASTY, raw = ?NASTY, "object {NASTY}: wrong");
        });
        let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!said.trim_end().chars().any(strange), "{said:?}");
        assert!(said.contains("error=a\\u001b[31m") && said.contains("object a\\u001b"), "{said}");
    }
}
