//! An explanation for people.

use std::fmt::Write;

use super::{Explanation, Masquerade, Question, Verdict};

/// A few lines: the verdict, then every step with what says so.
#[must_use]
pub fn render(question: &Question, explanation: &Explanation) -> String {
    let mut text = String::new();
    let verdict = match explanation.verdict {
        Verdict::Dnat => "dnat",
        Verdict::Reject => "reject",
        Verdict::Drop => "drop",
        Verdict::Pass => "pass",
    };
    _ = writeln!(text, "{question}");
    _ = writeln!(text, "{verdict}: {}", explanation.reason);
    if explanation.verdict == Verdict::Dnat {
        let endpoints: Vec<_> = explanation.endpoints.iter().map(ToString::to_string).collect();
        _ = writeln!(text, "  to one of   {}", endpoints.join(", "));
        let source = match explanation.masquerade {
            Masquerade::None => "kept",
            Masquerade::Some => "masqueraded to some, kept to others",
            Masquerade::All => "masqueraded",
        };
        _ = writeln!(text, "  source      {source}");
    }
    if let Some(flow) = &explanation.flow {
        _ = writeln!(
            text,
            "  but its flow is there already: to {} as {}, {}, {} s left",
            flow.endpoint, flow.source, flow.state, flow.expires
        );
    }
    for (number, step) in (1..).zip(&explanation.steps) {
        let by = match (step.object.is_empty(), step.field.is_empty()) {
            (true, _) => String::new(),
            (false, true) => format!("  [{}]", step.object),
            (false, false) => format!("  [{}: {}]", step.object, step.field),
        };
        _ = writeln!(text, "{number:>4}  {}{by}", step.what);
    }
    text
}
