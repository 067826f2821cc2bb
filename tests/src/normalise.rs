//! Makes two servers' outputs comparable: ids, hashes, sizes, durations and addresses become placeholders, nothing else does.

use regex::Regex;

/// Ordered rewriting rules.
#[derive(Debug)]
pub struct Normaliser(Vec<(Regex, &'static str)>);

impl Normaliser {
    pub fn new() -> Self {
        let rules = [
            // JSON: numbers under names that mean an id, a hash or a size; as strings in the gateway's form.
            (r#""(cluster_id|member_id|ID|leader|memberID)":"?\d+"?"#, r#""$1":<id>"#),
            (r#""(hash)":\d+"#, r#""$1":<hash>"#),
            (r#""(dbSize|dbSizeInUse|dbSizeQuota)":"?\d+"?"#, r#""$1":<size>"#),
            (r#""(took)":"[^"]*""#, r#""$1":<duration>"#),
            // etcdctl's fields form.
            (r#""(ClusterID|MemberID|ID|Leader)" : \d+"#, r#""$1" : <id>"#),
            (r#""(Hash)" : \d+"#, r#""$1" : <hash>"#),
            (r#""(DBSize|DBSizeInUse|DBSizeQuota)" : \d+"#, r#""$1" : <size>"#),
            (r#""(Took)" : "?[^\n"]*"?"#, r#""$1" : <duration>"#),
            // Text.
            (r"127\.0\.0\.1:\d+", "<address>"),
            (r"\b\d+(\.\d+)?(ns|µs|ms|s)\b", "<duration>"),
            (r"\b\d+(\.\d+)? [kMG]?B\b|\b\d+%", "<size>"),
            (r"(<address>(?:, |,))\d{1,10}\b", "$1<hash>"),
            (r"\b[0-9a-f]{14,16}\b", "<id>"),
            // Tables pad to the width of what was replaced.
            (r" +<", " <"),
            (r"─+", "─"),
            (r"│ +", "│ "),
            (r" +│", " │"),
            // What a JSON parser says of text that is not JSON is its own affair; the code is not.
            (
                r#""message":"(?:proto:|number too large |unexpected EOF|invalid character |Invalid |EOF while |expected )[^}]*""#,
                r#""message":"<parser>""#,
            ),
        ];
        Self(rules.into_iter().map(|(pattern, with)| (Regex::new(pattern).expect("a rule is a valid pattern"), with)).collect())
    }

    pub fn apply(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (pattern, with)| pattern.replace_all(&text, *with).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::Normaliser;

    #[test]
    fn ids_hashes_sizes_durations_and_addresses_become_placeholders() {
        let normaliser = Normaliser::new();
        for (raw, normal) in [
            (
                r#"{"header":{"cluster_id":14841639068965178418,"member_id":10276657743932975437}}"#,
                r#"{"header":{"cluster_id":<id>,"member_id":<id>}}"#,
            ),
            (r#"{"cluster_id":"14841639068965178418","revision":"2"}"#, r#"{"cluster_id":<id>,"revision":"2"}"#),
            (
                "8e9e05c52164694d, started, m1, http://127.0.0.1:2380, http://127.0.0.1:2379, false",
                "<id>, started, m1, http://<address>, http://<address>, false",
            ),
            (
                "127.0.0.1:2379 is healthy: successfully committed proposal: took = 1.834167ms",
                "<address> is healthy: successfully committed proposal: took = <duration>",
            ),
            (
                "127.0.0.1:2379, 8e9e05c52164694d, 3.7.1, 3.7.0, 20 kB, 16 kB, 20%, 2.1 GB, true",
                "<address>, <id>, 3.7.1, 3.7.0, <size>, <size>, <size>, <size>, true",
            ),
            ("127.0.0.1:2379, 3245166379", "<address>, <hash>"),
            ("\"MemberID\" : 10276657743932975437\n\"Revision\" : 1", "\"MemberID\" : <id>\n\"Revision\" : 1"),
        ] {
            assert_eq!(normaliser.apply(raw), normal);
        }
    }

    #[test]
    fn keys_values_revisions_and_counts_stay() {
        let normaliser = Normaliser::new();
        for text in [
            r#"{"kvs":[{"key":"Zm9v","create_revision":2,"mod_revision":3,"version":2,"value":"YmFy"}],"count":1}"#,
            "foo\nbar\n",
            "compacted revision 7",
        ] {
            assert_eq!(normaliser.apply(text), text);
        }
    }
}
