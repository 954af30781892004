//! Which known name an unknown one is meant for.

/// The nearest known name, if one is near: at most a third of it is another.
#[must_use]
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&lower, &name.to_lowercase());
    let (distance, name) = known.into_iter().map(|name| (distance(name), name)).min()?;
    (3 * distance <= name.chars().count().max(word.chars().count())).then_some(name)
}

/// `did you mean …?` where a known name is near, else `otherwise`.
#[must_use]
pub(crate) fn or_else<'a>(word: &str, known: impl IntoIterator<Item = &'a str>, otherwise: &str) -> String {
    nearest(word, known).map_or_else(|| otherwise.to_owned(), |name| format!("did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_is_meant() {
        let known = ["sessionAffinity", "selector", "ports", "http"];
        for (word, meant) in [
            ("sessionAfinity", Some("sessionAffinity")),
            ("SESSIONAFFINITY", Some("sessionAffinity")),
            ("port", Some("ports")),
            ("htpp", Some("http")),
            ("template", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
        assert_eq!(nearest("a", []), None);
        assert_eq!(or_else("slector", known, "remove it"), "did you mean `selector`?");
        assert_eq!(or_else("replicas", known, "remove it"), "remove it");
    }
}
