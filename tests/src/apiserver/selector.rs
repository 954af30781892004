//! Label and field selectors, evaluated.

use serde_json::Value;

use super::store::Resource;

/// A label selector and a field selector together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    /// The value is one of these.
    In(Vec<String>),
    /// The value is none of these; having no value is fine.
    NotIn(Vec<String>),
}

impl Selector {
    /// Parses both; an error is what the server says with status 400.
    pub(super) fn parse(resource: Resource, labels: &str, fields: &str) -> Result<Self, String> {
        let labels = split(labels).into_iter().map(label).collect::<Result<_, _>>()?;
        let fields = split(fields).into_iter().map(|text| field(resource, text)).collect::<Result<_, _>>()?;
        Ok(Self { labels, fields })
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"].get(key).and_then(Value::as_str);
        let field = |path: &str| {
            path.split('.').try_fold(object, |value, part| value.get(part)).and_then(Value::as_str)
        };
        self.labels.iter().all(|requirement| requirement.holds(label(&requirement.key)))
            && self
                .fields
                .iter()
                .all(|requirement| requirement.holds(Some(field(&requirement.key).unwrap_or_default())))
    }
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        match &self.test {
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::In(values) => value.is_some_and(|value| values.iter().any(|wanted| wanted == value)),
            Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|other| other != value)),
        }
    }
}

/// At the commas that are not inside parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    let parts = text.split(|c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn label(text: &str) -> Result<Requirement, String> {
    let requirement = |key: &str, test| {
        let key = key.trim();
        let known = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if key.is_empty() || !key.chars().all(known) {
            return Err(format!("unable to parse requirement: {text:?}"));
        }
        Ok(Requirement { key: key.to_owned(), test })
    };
    if let Some(key) = text.strip_prefix('!') {
        return requirement(key, Test::Absent);
    }
    for (word, negative) in [(" notin ", true), (" in ", false)] {
        if let Some((key, set)) = text.split_once(word) {
            let set = set.trim().strip_prefix('(').and_then(|set| set.strip_suffix(')'));
            let set = set.ok_or_else(|| format!("unable to parse requirement: {text:?}"))?;
            let values = set.split(',').map(|value| value.trim().to_owned()).collect();
            return requirement(key, if negative { Test::NotIn(values) } else { Test::In(values) });
        }
    }
    match equality(text) {
        Some((key, test)) => requirement(key, test),
        None => requirement(text, Test::Exists),
    }
}

fn field(resource: Resource, text: &str) -> Result<Requirement, String> {
    let (key, test) = equality(text).ok_or_else(|| format!("invalid field selector: {text:?}"))?;
    if !resource.fields().contains(&key) {
        return Err(format!("field label not supported: {key}"));
    }
    Ok(Requirement { key: key.to_owned(), test })
}

fn equality(text: &str) -> Option<(&str, Test)> {
    if let Some((key, value)) = text.split_once("!=") {
        return Some((key.trim(), Test::NotIn(vec![value.trim().to_owned()])));
    }
    let (key, value) = text.split_once("==").or_else(|| text.split_once('='))?;
    Some((key.trim(), Test::In(vec![value.trim().to_owned()])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn selects(labels: &str, fields: &str, object: &Value) -> bool {
        Selector::parse(Resource::Services, labels, fields).unwrap().matches(object)
    }

    #[test]
    fn selectors_select() {
        let object = json!({"metadata": {"name": "web", "labels": {"a": "1", "x/y": ""}}, "spec": {"clusterIP": "None"}});
        for (labels, fields, wanted) in [
            ("", "", true),
            ("a", "", true),
            ("!a", "", false),
            ("!b", "", true),
            ("!x/y", "", false),
            ("x/y", "", true),
            ("a=1,!b", "", true),
            ("a==2", "", false),
            ("a!=2,b!=1", "", true),
            ("a in (1, 2),b notin (x)", "", true),
            ("a notin (1,2)", "", false),
            ("", "spec.clusterIP!=None", false),
            ("", "spec.clusterIP=None", true),
            ("", "metadata.name=web", true),
            ("", "metadata.name==db", false),
            ("", "spec.type!=ExternalName", true),
        ] {
            assert_eq!(selects(labels, fields, &object), wanted, "{labels} {fields}");
        }
    }

    #[test]
    fn what_a_server_would_refuse_is_refused() {
        let parse = |labels, fields| Selector::parse(Resource::Services, labels, fields);
        assert_eq!(
            parse("", "spec.clusterIPs!=None").unwrap_err(),
            "field label not supported: spec.clusterIPs"
        );
        for (labels, fields) in [("a b", ""), ("!", ""), ("a in 1", ""), ("", "metadata.name"), ("!!a", "")] {
            assert!(parse(labels, fields).is_err(), "{labels} {fields}");
        }
    }
}
