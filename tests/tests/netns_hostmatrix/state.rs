//! A node's rules, routes and links, to be compared.

use tests::netns::Namespace;

/// Rules, tables of rules, routes of all tables, links and addresses, as the node shows them.
pub(crate) fn state(node: &Namespace) -> String {
    // Without counters: rules of others count on.
    let mut text = node.run("nft -s list ruleset").unwrap();
    for what in
        ["rule", "-6 rule", "-br link", "-br addr", "-4 route show table all", "-6 route show table all"]
    {
        text += &node.ip(what).unwrap();
    }
    // The order of tables is the order in which they were made.
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// The node is as it was.
///
/// # Panics
/// With the lines that are more or less than before.
pub(crate) fn assert_same(node: &Namespace, before: &str) {
    let after = state(node);
    let lines_of = |text: &str, other: &str| -> Vec<String> {
        text.lines().filter(|line| !other.lines().any(|known| known == *line)).map(str::to_owned).collect()
    };
    let (more, less) = (lines_of(&after, before), lines_of(before, &after));
    assert!(after == before, "{}: more than before: {more:#?}; less: {less:#?}", node.name());
}
