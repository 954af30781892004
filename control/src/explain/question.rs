//! What may be asked: the addresses of a packet, on the command line or as a line of JSON.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use dataplane::packet::tuple::{Proto, Tuple};
use serde::{Deserialize, Serialize};

use crate::model::ip;

/// A packet by its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who sends it.
    pub src: IpAddr,
    /// From which port; 0 when it does not matter.
    pub sport: u16,
    /// Where to.
    pub dst: IpAddr,
    /// To which port; 0 for a protocol without ports.
    pub dport: u16,
    /// Its protocol; `None` for one a Service cannot have, as ICMP.
    pub proto: Option<Proto>,
    /// The link it comes in by, if that is known.
    pub in_interface: Option<String>,
}

/// As one line of JSON has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Form {
    src: String,
    #[serde(default)]
    sport: Option<u16>,
    dst: String,
    #[serde(default)]
    dport: Option<u16>,
    proto: Option<String>,
    #[serde(default)]
    in_interface: Option<String>,
}

/// What is wrong with a question: the field, and what it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct BadQuestion {
    /// The field, as JSON spells it.
    pub field: &'static str,
    /// What is wrong.
    pub what: String,
}

impl Question {
    /// A question in texts: addresses as Kubernetes writes them, with a port after a colon (an IPv6 address then in
    /// brackets) or none.
    ///
    /// # Errors
    /// The field that cannot be understood.
    pub fn of(src: &str, dst: &str, proto: &str, in_interface: Option<&str>) -> Result<Self, BadQuestion> {
        let (src, sport) = with_port("src", src)?;
        let (dst, dport) = with_port("dst", dst)?;
        Self::checked(src, sport, dst, dport, Some(proto), in_interface)
    }

    /// The address of an end in text, if it is one.
    #[must_use]
    pub fn address(end: &str) -> Option<IpAddr> {
        with_port("src", end).ok().map(|(addr, _)| addr)
    }

    /// A question as one JSON object.
    ///
    /// # Errors
    /// The field that is missing, not known or cannot be understood.
    pub fn from_json(line: &str) -> Result<Self, BadQuestion> {
        let form: Form = serde_json::from_str(line)
            .map_err(|error| BadQuestion { field: "query", what: error.to_string() })?;
        let (src, sport) = with_port("src", &form.src)?;
        let (dst, dport) = with_port("dst", &form.dst)?;
        Self::checked(
            src,
            form.sport.or(sport),
            dst,
            form.dport.or(dport),
            form.proto.as_deref(),
            form.in_interface.as_deref(),
        )
    }

    fn checked(
        src: IpAddr,
        sport: Option<u16>,
        dst: IpAddr,
        dport: Option<u16>,
        proto: Option<&str>,
        in_interface: Option<&str>,
    ) -> Result<Self, BadQuestion> {
        let bad = |field, what: String| Err(BadQuestion { field, what });
        if src.is_ipv4() != dst.is_ipv4() {
            return bad("dst", format!("{dst} and {src} are of different families"));
        }
        let proto = match proto.unwrap_or("TCP").to_ascii_uppercase().as_str() {
            "TCP" | "" => Some(Proto::Tcp),
            "UDP" => Some(Proto::Udp),
            "SCTP" => Some(Proto::Sctp),
            "ICMP" | "ICMPV6" | "OTHER" => None,
            other => return bad("proto", format!("{other:?} is none of TCP, UDP, SCTP, ICMP and other")),
        };
        if proto.is_some() && dport.is_none() {
            return bad("dport", "missing".to_owned());
        }
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if let Some(link) = in_interface.filter(|link| !link.chars().all(fine)) {
            return bad("inInterface", format!("{link:?} is no device name"));
        }
        let in_interface = in_interface.filter(|link| !link.is_empty()).map(str::to_owned);
        let (sport, dport) = (sport.unwrap_or_default(), dport.unwrap_or_default());
        Ok(Self { src, sport, dst, dport, proto, in_interface })
    }

    /// The packet's tuple, for a protocol with ports.
    #[must_use]
    pub fn tuple(&self) -> Option<Tuple<IpAddr>> {
        let Self { src, dst, sport, dport, .. } = *self;
        Some(Tuple { src, dst, sport, dport, proto: self.proto? })
    }

    /// As the query string of a request.
    #[must_use]
    pub fn query_string(&self) -> String {
        let Self { src, sport, dst, dport, .. } = self;
        let link =
            self.in_interface.as_deref().map(|link| format!("&inInterface={link}")).unwrap_or_default();
        format!("src={src}&sport={sport}&dst={dst}&dport={dport}&proto={}{link}", self.proto_name())
    }

    /// From the query string of a request.
    ///
    /// # Errors
    /// The field that cannot be understood.
    pub fn from_query_string(text: &str) -> Result<Self, BadQuestion> {
        let mut form = Form::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = |field| {
                value
                    .parse()
                    .map(Some)
                    .map_err(|_| BadQuestion { field, what: format!("{value:?} is no port") })
            };
            match key {
                "src" => form.src = value.to_owned(),
                "dst" => form.dst = value.to_owned(),
                "sport" => form.sport = number("sport")?,
                "dport" => form.dport = number("dport")?,
                "proto" => form.proto = Some(value.to_owned()),
                "inInterface" => form.in_interface = Some(value.to_owned()),
                other => {
                    let what = format!("{other:?} is none of src, sport, dst, dport, proto and inInterface");
                    return Err(BadQuestion { field: "query", what });
                }
            }
        }
        let (src, _) = with_port("src", &form.src)?;
        let (dst, _) = with_port("dst", &form.dst)?;
        let (proto, link) = (form.proto.as_deref(), form.in_interface.as_deref());
        Self::checked(src, form.sport, dst, form.dport, proto, link)
    }

    fn proto_name(&self) -> String {
        self.proto.map_or_else(|| "other".to_owned(), |proto| proto.to_string())
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |addr, port| match port {
            0 => format!("{addr}"),
            _ => SocketAddr::new(addr, port).to_string(),
        };
        write!(f, "{} > {} {}", end(self.src, self.sport), end(self.dst, self.dport), self.proto_name())
    }
}

/// `10.0.0.1`, `10.0.0.1:80`, `fd00::1`, `[fd00::1]:80`, `[fd00::1]`; sloppy addresses as in objects.
fn with_port(field: &'static str, text: &str) -> Result<(IpAddr, Option<u16>), BadQuestion> {
    let bad = || BadQuestion { field, what: format!("{text:?} is no address, alone or with a port") };
    if let Some(addr) = ip::parse(text) {
        return Ok((addr, None));
    }
    let (addr, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or_else(bad)?,
        None => text.split_at(text.rfind(':').ok_or_else(bad)?),
    };
    let addr = ip::parse(addr).ok_or_else(bad)?;
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok((addr, None)),
        None => Err(bad()),
        Some(port) => Ok((addr, Some(port.parse().map_err(|_| bad())?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_asked_in_words_or_in_json() {
        let words = Question::of("10.0.0.2", "172.30.0.041:80", "tcp", None).unwrap();
        assert_eq!(words.to_string(), "10.0.0.2 > 172.30.0.41:80 TCP");
        let json = r#"{"src":"10.0.0.2","sport":1234,"dst":"172.30.0.41","dport":80,"proto":"TCP","inInterface":"eth0"}"#;
        let json = Question::from_json(json).unwrap();
        assert_eq!(json, Question { sport: 1234, in_interface: Some("eth0".into()), ..words });
        let six = Question::of("[fd00::1]:5", "[fd00::2]:53", "UDP", None).unwrap();
        assert_eq!((six.to_string().as_str(), six.sport), ("[fd00::1]:5 > [fd00::2]:53 UDP", 5));
        let ping = Question::of("fd00::1", "fd00::2", "icmp", None).unwrap();
        assert_eq!((ping.proto, ping.tuple()), (None, None));
    }

    #[test]
    fn a_question_survives_its_query_string() {
        for question in [
            Question::of("10.0.0.2:7", "172.30.0.41:80", "sctp", Some("veth0")).unwrap(),
            Question::of("fd00::1", "[fd00::2]:53", "UDP", None).unwrap(),
            Question::of("fd00::1", "fd00::2", "icmp", None).unwrap(),
        ] {
            assert_eq!(Question::from_query_string(&question.query_string()), Ok(question));
        }
        assert_eq!(Question::from_query_string("sort=1").unwrap_err().field, "query");
        assert_eq!(Question::from_query_string("src=10.0.0.1&dport=x").unwrap_err().field, "dport");
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        for (line, field) in [
            ("", "query"),
            ("[]", "query"),
            (r#"{"src":"10.0.0.2"}"#, "query"),
            (r#"{"src":"10.0.0.2","dst":"10.0.0.3","dport":80,"proto":"TCP","colour":"red"}"#, "query"),
            (r#"{"src":"10.0.0.2","dst":"10.0.0.3","dport":70000,"proto":"TCP"}"#, "query"),
            (r#"{"src":"10.0.0.300","dst":"10.0.0.3","dport":80,"proto":"TCP"}"#, "src"),
            (r#"{"src":"10.0.0.2","dst":"nowhere","dport":80,"proto":"TCP"}"#, "dst"),
            (r#"{"src":"10.0.0.2","dst":"fd00::1","dport":80,"proto":"TCP"}"#, "dst"),
            (r#"{"src":"10.0.0.2","dst":"10.0.0.3","proto":"TCP"}"#, "dport"),
            (r#"{"src":"10.0.0.2","dst":"10.0.0.3","dport":80,"proto":"DCCP"}"#, "proto"),
            (
                r#"{"src":"10.0.0.2","dst":"10.0.0.3","dport":80,"proto":"TCP","inInterface":"a b"}"#,
                "inInterface",
            ),
        ] {
            assert_eq!(Question::from_json(line).unwrap_err().field, field, "{line}");
        }
    }
}
