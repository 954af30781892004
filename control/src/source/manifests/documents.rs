//! From the bytes of one file to its documents. A document that cannot be read takes no other document with it.

use serde_json::Value;
use serde_saphyr::Options;

/// Larger files are not read.
pub(super) const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// A file with more documents is refused.
const MAX_DOCUMENTS: usize = 10_000;

/// One document of a file.
#[derive(Debug)]
pub(super) struct Document {
    /// Which one, as a person counts: from 1, by `---` lines.
    pub(super) number: usize,
    /// What is in it, or why that cannot be said.
    pub(super) content: Result<Value, String>,
}

/// The documents of a file, or why it has none at all. Empty documents are counted and left out.
pub(super) fn read(file_name: &str, bytes: &[u8]) -> Result<Vec<Document>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("it is not UTF-8 text ({error})"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = if is_json(file_name) { read_json(text) } else { read_yaml(text) };
    if documents.len() > MAX_DOCUMENTS {
        return Err(format!("it has {} documents, more than {MAX_DOCUMENTS}", documents.len()));
    }
    Ok(documents)
}

fn is_json(file_name: &str) -> bool {
    file_name.rsplit_once('.').is_some_and(|(_, extension)| extension.eq_ignore_ascii_case("json"))
}

fn read_json(text: &str) -> Vec<Document> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let documents = values.enumerate().map(|(index, value)| {
        let content = value.map_err(|error| format!("it is not JSON: {error}"));
        Document { number: index + 1, content }
    });
    documents
        .filter(|document| !matches!(document.content, Ok(Value::Null)))
        .take(MAX_DOCUMENTS + 1)
        .collect()
}

fn read_yaml(text: &str) -> Vec<Document> {
    let mut documents = Vec::new();
    for (index, part) in split(text).into_iter().enumerate().take(MAX_DOCUMENTS + 1) {
        let content = match serde_saphyr::from_str_with_options::<Value>(part.text, options()) {
            Ok(Value::Null) => continue,
            Ok(value) => Ok(value),
            Err(_) if is_blank(part.text) => continue,
            Err(error) => Err(yaml_error(&error, part.first_line)),
        };
        documents.push(Document { number: index + 1, content });
    }
    documents
}

/// A part of a file that holds one document.
struct Part<'a> {
    text: &'a str,
    /// Lines of the file before it.
    first_line: u64,
}

/// Splits at `---` lines and after `...` lines. YAML forbids such lines inside a document, so this is exact, and it
/// keeps a broken document from hiding the next. Comments and directives (`%YAML 1.2`) before a `---` belong to the
/// document that begins there.
fn split(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut first_line, mut begun, mut at) = (0, 0, false, 0);
    for (line_number, line) in (0..).zip(text.split_inclusive('\n')) {
        let end = at + line.len();
        if is_marker(line, "---") {
            if begun || !is_blank(&text[start..at]) {
                parts.push(Part { text: &text[start..at], first_line });
                (start, first_line) = (at, line_number);
            }
            begun = true;
        } else if is_marker(line, "...") && (begun || !is_blank(&text[start..at])) {
            parts.push(Part { text: &text[start..end], first_line });
            (start, first_line, begun) = (end, line_number + 1, false);
        }
        at = end;
    }
    parts.push(Part { text: &text[start..], first_line });
    parts
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// No content: white space, comments, directives, markers.
fn is_blank(text: &str) -> bool {
    text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with(['#', '%']) || line == "---" || line == "..."
    })
}

/// The parser's message on one line, with the line number of the file.
fn yaml_error(error: &serde_saphyr::Error, first_line: u64) -> String {
    let error = error.without_snippet();
    let rendered = error.to_string();
    let line = rendered.lines().next().unwrap_or_default();
    // Its own line numbers are counted from the document's start.
    let message = [" at line ", " (defined at "]
        .iter()
        .fold(line, |line, tail| line.split(tail).next().unwrap_or(line))
        .trim();
    match error.location() {
        Some(location) => format!("it is not YAML: line {}: {message}", first_line + location.line()),
        None => format!("it is not YAML: {message}"),
    }
}

/// Limits per document. Manifests hardly use aliases; a document that multiplies itself through them is refused long
/// before it costs memory.
fn options() -> Options {
    serde_saphyr::options! {
        with_snippet: false,
        emit_comments: false,
        budget: serde_saphyr::budget! {
            max_events: 4_000_000,
            max_nodes: 4_000_000,
            max_depth: 64,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_documents: 1,
            max_total_scalar_bytes: 32 * 1024 * 1024,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 50_000,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn yaml(text: &str) -> Vec<(usize, Result<Value, String>)> {
        read("a.yaml", text.as_bytes())
            .unwrap()
            .into_iter()
            .map(|document| (document.number, document.content))
            .collect()
    }

    #[test]
    fn documents_are_counted_as_a_person_counts() {
        for text in [
            "a: 1\n---\nb: 2\n",
            "---\na: 1\n---\nb: 2\n",
            "# licence\n\n---\na: 1\n---\nb: 2\n---\n",
            "%YAML 1.2\n---\na: 1\n...\n%YAML 1.2\n---\nb: 2\n",
            "a: 1\n...\n# bare\nb: 2\n...\n",
            "\u{feff}--- # first\na: 1\n--- # second\nb: 2",
            "a: 1\r\n---\r\nb: 2\r\n",
            "--- {a: 1}\n--- {b: 2}\n",
        ] {
            assert_eq!(yaml(text), [(1, Ok(json!({"a": 1}))), (2, Ok(json!({"b": 2})))], "{text:?}");
        }
        assert_eq!(
            yaml("a: 1\n---\n---\n# nothing\n---\nb: 2\n"),
            [(1, Ok(json!({"a": 1}))), (4, Ok(json!({"b": 2})))]
        );
        for nothing in ["", "\n\n", "# only a comment", "---", "---\n...\n---\n", "null", "~"] {
            assert_eq!(yaml(nothing), [], "{nothing:?}");
        }
        // A marker is a line that begins with three dashes, nothing else.
        assert_eq!(yaml("a: |\n  ---\n  text\nb: ----\n")[0].1, Ok(json!({"a": "---\ntext\n", "b": "----"})));
    }

    #[test]
    fn a_broken_document_names_its_line_and_spares_the_others() {
        let documents = yaml("a: 1\n---\nb: [1\n---\nc: 3\n---\nd: 1\nd: 2\n");
        assert_eq!(documents.len(), 4);
        assert_eq!((&documents[0].1, &documents[2].1), (&Ok(json!({"a": 1})), &Ok(json!({"c": 3}))));
        let error = documents[1].1.clone().unwrap_err();
        assert!(error.starts_with("it is not YAML: line "), "{error}");
        let error = documents[3].1.clone().unwrap_err();
        assert!(error.contains("line 8") && error.contains("duplicate"), "{error}");
        assert!(!error.contains('\n'));
    }

    #[test]
    fn yaml_values_are_what_kubectl_would_make_of_them() {
        let text =
            "port: 80\nip: 10.96.0.10\nversion: \"1.0\"\ntime: 2026-01-01T00:00:00Z\nempty:\nready: true\n";
        let wanted = json!({"port": 80, "ip": "10.96.0.10", "version": "1.0", "time": "2026-01-01T00:00:00Z", "empty": null, "ready": true});
        assert_eq!(yaml(text)[0].1, Ok(wanted));
        let text = "base: &b {port: 80}\nport:\n  <<: *b\n  name: x\n";
        assert_eq!(yaml(text)[0].1, Ok(json!({"base": {"port": 80}, "port": {"port": 80, "name": "x"}})));
    }

    #[test]
    fn json_files_hold_one_or_several_values() {
        let documents = read("a.JSON", br#"{"a": 1} {"b": 2}"#).unwrap();
        assert_eq!(documents.iter().map(|d| d.number).collect::<Vec<_>>(), [1, 2]);
        let documents = read("a.json", b"{\"a\": 1}\n{\"b\":").unwrap();
        assert!(documents[0].content.is_ok());
        assert!(documents[1].content.as_ref().is_err_and(|error| error.contains("line 2")));
        assert!(read("a.json", b"").unwrap().is_empty());
        assert!(read("a.json", b"\xff").unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn documents_that_multiply_themselves_are_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let before = level - 1;
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 10].join(", "));
        }
        let long = "x".repeat(1 << 20);
        let repeated = format!("a: &a {long}\nb: [{}]\n", vec!["*a"; 900].join(", "));
        let deep: String = (0..500).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
        let deep_flow = format!("a: {}1{}", "[".repeat(5000), "]".repeat(5000));
        let own_anchor = "a: &a [*a]".to_owned();
        for (text, why) in [
            (&bomb, "alias"),
            (&repeated, "budget"),
            (&deep, "budget"),
            (&deep_flow, "recursion"),
            (&own_anchor, "line 1"),
        ] {
            let error = yaml(text)[0].1.clone().unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let deep_json = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
        assert!(read("a.json", deep_json.as_bytes()).unwrap()[0].content.is_err());
        let endless = "---\na\n".repeat(MAX_DOCUMENTS + 1);
        assert!(read("a.yaml", endless.as_bytes()).unwrap_err().contains("documents"));
    }
}
