//! Reading the configuration file.

use std::path::Path;

use super::ConfigError;
use super::file::{API_VERSION, ConfigFile, KIND};
use crate::nearest;

/// Reads a configuration file.
///
/// # Errors
/// The file cannot be read, is not YAML, has an unknown key or a value of another form, or is of another kind.
pub fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
    of(path, parse)
}

/// Reads a configuration file for `explain`: it may leave out `apiVersion` and `kind`.
///
/// # Errors
/// As [`read`].
pub fn read_for_explain(path: &Path) -> Result<ConfigFile, ConfigError> {
    of(path, |text| {
        let mut file = parse_any(text)?;
        file.api_version.get_or_insert_with(|| API_VERSION.to_owned());
        file.kind.get_or_insert_with(|| KIND.to_owned());
        check_kind(&file)?;
        Ok(file)
    })
}

/// Parses a configuration file's text.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &str) -> Result<ConfigFile, ConfigError> {
    let file = parse_any(text)?;
    check_kind(&file)?;
    Ok(file)
}

/// Errors name the file.
fn of(
    path: &Path,
    parse: impl Fn(&str) -> Result<ConfigFile, ConfigError>,
) -> Result<ConfigFile, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let what = format_args!("{}: {error}", path.display()).to_string();
        ConfigError::new("--config", what, "name a file that can be read")
    })?;
    let named =
        |error: ConfigError| ConfigError { what: format!("{}, {}", path.display(), error.what), ..error };
    parse(&text).map_err(named)
}

fn parse_any(text: &str) -> Result<ConfigFile, ConfigError> {
    serde_saphyr::from_str(text).map_err(|error| {
        if let serde_saphyr::Error::SerdeUnknownField { field, expected, location } = error.without_snippet()
        {
            let what = format_args!("unknown field `{field}` in line {}", location.line()).to_string();
            return ConfigError::new(field.clone(), what, instead(field, expected));
        }
        let remedy = "write each key in its form: other types are refused";
        ConfigError::new("--config", in_its_line(&error, text), remedy)
    })
}

fn check_kind(file: &ConfigFile) -> Result<(), ConfigError> {
    let say = format!("begin the file with `apiVersion: {API_VERSION}` and `kind: {KIND}`");
    for (field, given, wanted) in [("apiVersion", &file.api_version, API_VERSION), ("kind", &file.kind, KIND)]
    {
        match given.as_deref() {
            Some(given) if given == wanted => {}
            Some(given) => {
                return Err(ConfigError::new(field, format_args!("{given:?} is not {wanted:?}"), say));
            }
            None => return Err(ConfigError::new(field, "missing", say)),
        }
    }
    Ok(())
}

/// What to write instead of an unknown key: the nearest known one if one is near, else whatever may stand there.
fn instead(key: &str, known: &[&str]) -> String {
    let otherwise = match known {
        [] => "remove it".to_owned(),
        known => format!("what may stand here: {}", known.join(", ")),
    };
    nearest::or_else(key, known.iter().copied(), &otherwise)
}

/// The parser's words and the line they are about: a wrong value's message does not name its key.
fn in_its_line(error: &serde_saphyr::Error, text: &str) -> String {
    let words = error.without_snippet().to_string();
    let words = words.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let line = error.location().and_then(|at| usize::try_from(at.line()).ok());
    match line.and_then(|line| text.lines().nth(line.checked_sub(1)?)) {
        Some(line) if !line.trim().is_empty() => format!("{words} (in `{}`)", line.trim()),
        Some(_) | None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(lines: &str) -> ConfigError {
        parse(&format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{lines}")).expect_err(lines)
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_one_known_in_its_place() {
        for (lines, key, remedy) in [
            ("serviceCidrs: []\n", "serviceCidrs", "did you mean `serviceCIDRs`?"),
            ("masquarade: true\n", "masquarade", "did you mean `masqueradeAll`?"),
            ("drainSecond: 1\n", "drainSecond", "did you mean `drainSeconds`?"),
            ("timeouts:\n  udpstream: 3\n", "udpstream", "did you mean `udpStream`?"),
            ("source: {kubernetes: {kubecfg: x}}\n", "kubecfg", "did you mean `kubeconfig`?"),
            ("externalIPs: {deny: []}\n", "deny", "what may stand here: allow"),
            ("maxFlows: {total: 3}\n", "total", "what may stand here: ipv4, ipv6"),
        ] {
            let error = refused(lines);
            assert_eq!((error.field.as_str(), error.remedy.as_str()), (key, remedy), "{error}");
            assert!(error.what.contains("line "), "{error}");
        }
    }

    #[test]
    fn a_value_of_another_type_is_shown_in_its_line() {
        let error = refused("workers: many\n");
        assert!(error.what.contains("`workers: many`"), "{error}");
    }
}
