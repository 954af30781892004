//! `tunway flows`: the flow table of a running tunway.

use std::io::Write;

use crate::cli::table::{Table, bytes, seconds};
use crate::cli::{Failure, FlowsArgs};
use crate::config::ConfigError;
use crate::socket::client::{self, ClientError};
use crate::socket::wire::{Flow, Flows, Query};

/// Asks and prints.
///
/// # Errors
/// No tunway answers, or the output cannot be written.
pub fn run(args: &FlowsArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let query = Query::Flows { service: args.service.clone(), limit: args.limit };
    let answer = client::ask_blocking(&args.at.at.path(), &query).map_err(failure)?;
    if args.at.json {
        return super::print_json(out, answer);
    }
    let flows: Flows = super::for_people(&answer)?;
    let mut text = render(&flows);
    if let Some(service) = args.service.as_ref().filter(|_| flows.matched == 0) {
        text.push_str(&format!("none is of a Service {service}; `tunway services` lists what is served\n"));
    }
    super::print(out, text.as_bytes())
}

fn failure(error: ClientError) -> Failure {
    if matches!(error, ClientError::Unaskable(_)) {
        return ConfigError::new("--service", error, "as `tunway services` lists them").into();
    }
    anyhow::Error::from(error).into()
}

/// The table and the line below it.
#[must_use]
pub fn render(flows: &Flows) -> String {
    let mut text = if flows.flows.is_empty() { String::new() } else { table(&flows.flows).to_string() };
    let shown = flows.flows.len() as u64;
    if shown < flows.matched {
        text.push_str(&format!("{} more: raise --limit, or ask for one --service\n", flows.matched - shown));
    }
    let full = flows.occupancy;
    text.push_str(&format!(
        "{} flows; IPv4 {} of {}, IPv6 {} of {}\n",
        flows.matched, full.ipv4, full.ipv4_max, full.ipv6, full.ipv6_max
    ));
    text
}

/// Flows as rows: both tuples, state, packets and bytes both ways.
#[must_use]
pub fn table(flows: &[Flow]) -> Table {
    let mut table = Table::new(&[
        "PROTO", "CLIENT", "VIP", "ENDPOINT", "SNAT", "STATE", ">PACKETS", ">BYTES", ">IDLE", ">EXPIRES",
        "SERVICE",
    ]);
    for flow in flows {
        table.row([
            flow.proto.clone(),
            flow.client.to_string(),
            flow.vip.to_string(),
            flow.endpoint.to_string(),
            flow.snat.to_string(),
            flow.state.clone(),
            format!("{}/{}", flow.packets[0], flow.packets[1]),
            format!("{}/{}", bytes(flow.bytes[0]), bytes(flow.bytes[1])),
            seconds(flow.idle),
            seconds(flow.expires),
            if flow.service.is_empty() { "-".to_owned() } else { flow.service.clone() },
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::wire::Occupancy;

    fn flow() -> Flow {
        Flow {
            proto: "TCP".into(),
            client: "10.244.9.2:40112".parse().unwrap(),
            vip: "10.96.144.131:80".parse().unwrap(),
            endpoint: "10.244.1.2:80".parse().unwrap(),
            snat: "192.0.2.1:40112".parse().unwrap(),
            state: "ESTABLISHED".into(),
            packets: [6, 4],
            bytes: [412, 12_345],
            idle: 3,
            expires: 86_397,
            service: "default/my-service:80".into(),
        }
    }

    #[test]
    fn a_flow_is_one_line_with_both_tuples() {
        let flows = Flows {
            flows: vec![flow()],
            matched: 3,
            occupancy: Occupancy { ipv4: 3, ipv4_max: 4096, ipv6: 0, ipv6_max: 8192 },
        };
        let expected = "\
PROTO  CLIENT            VIP               ENDPOINT       SNAT             STATE        PACKETS      BYTES  IDLE  EXPIRES  SERVICE
TCP    10.244.9.2:40112  10.96.144.131:80  10.244.1.2:80  192.0.2.1:40112  ESTABLISHED      6/4  412/12.3k    3s   23h59m  default/my-service:80
2 more: raise --limit, or ask for one --service
3 flows; IPv4 3 of 4096, IPv6 0 of 8192
";
        assert_eq!(render(&flows), expected);
    }

    #[test]
    fn an_empty_table_is_a_line() {
        assert_eq!(render(&Flows::default()), "0 flows; IPv4 0 of 0, IPv6 0 of 0\n");
        let gone = Flow { service: String::new(), ..flow() };
        assert!(table(&[gone]).to_string().trim_end().ends_with(" -"));
    }
}
