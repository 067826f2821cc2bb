//! DESIGN.md quotes the traces as they are.

use std::{fs, path::Path};

#[test]
fn design_quotes_every_trace_of_the_tour() {
    let core = std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo");
    let design = fs::read_to_string(Path::new(&core).join("../DESIGN.md")).expect("the design");
    let snapshots = Path::new(&core).join("tests/tour/snapshots");
    let mut quoted = 0;
    for file in fs::read_dir(snapshots).expect("the snapshots") {
        let path = file.expect("a snapshot").path();
        let text = fs::read_to_string(&path).expect("text");
        let trace = text.splitn(3, "---\n").nth(2).expect("a header and the trace").trim_end();
        assert!(design.contains(trace), "DESIGN.md does not quote {} as it is:\n{trace}", path.display());
        quoted += 1;
    }
    assert_eq!(quoted, 6, "one trace for each stop of the tour");
}
