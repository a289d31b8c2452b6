//! What is wrong with a line of ClassBench text is said with its place and what was expected there.

use portcullis_classifier::classbench;

#[test]
fn malformed_rules_are_refused_with_their_place() {
    let good = "@10.0.0.0/8\t0.0.0.0/0\t0 : 65535\t80 : 80\t0x06/0xFF\t0x0000/0x0200\n";
    let cases = [
        ("10.0.0.0/8 0.0.0.0/0", 1, "expected `@`"),
        ("@10.0.0.1/8 0.0.0.0/0", 2, "host bits"),
        ("@10.0.0.0/33 0.0.0.0/0", 2, "exceeds 32"),
        ("@10.0.0/8 0.0.0.0/0", 2, "10.0.0"),
        ("@any 0.0.0.0/0", 2, "expected a source prefix"),
        ("@10.0.0.0/8", 12, "expected a destination prefix"),
        ("@10.0.0.0/8 2001:db8::/32 0 : 1 0 : 1 tcp", 13, "address family"),
        ("@2001:db8::/32 10.0.0.0/8 0 : 1 0 : 1 tcp", 16, "address family"),
        ("@10.0.0.0/8 0.0.0.0/0 5 : 4 0 : 1 tcp", 23, "ends before it starts"),
        ("@10.0.0.0/8 0.0.0.0/0 0 : 1 9 : 8 tcp", 29, "ends before it starts"),
        ("@10.0.0.0/8 0.0.0.0/0 0 - 1 0 : 1 tcp", 25, "expected `:`"),
        ("@10.0.0.0/8 0.0.0.0/0 0 : 65536 0 : 1 tcp", 27, "0 to 65535"),
        ("@10.0.0.0/8 0.0.0.0/0 0 : 1 -1 : 1 tcp", 29, "0 to 65535"),
        ("@10.0.0.0/8 0.0.0.0/0 0 : 1 0 : 1", 34, "expected a protocol"),
        ("@10.0.0.0/8 0.0.0.0/0 0 : 1 0 : 1 tpc", 35, "expected a protocol"),
        ("@10.0.0.0/8 0.0.0.0/0 0 : 1 0 : 1 0x106/0xff", 35, "hexadecimal"),
        ("@10.0.0.0/8 0.0.0.0/0 0 : 1 0 : 1 0x06/0x0g", 40, "hexadecimal"),
        ("@10.0.0.0/8 0.0.0.0/0 0 : 1 0 : 1 0x16/0x0f", 35, "outside its mask"),
        ("@10.0.0.0/8 0.0.0.0/0 0 : 1 0 : 1 tcp syn", 39, "expected flags"),
        ("@10.0.0.0/8 0.0.0.0/0 0 : 1 0 : 1 tcp 0x02/0x12 more", 49, "more"),
    ];
    for (line, column, part) in cases {
        // Lines are counted with those that are good or empty.
        let text = format!("{good}\n{line}\n{good}");
        let error = classbench::parse("acl", &text).expect_err(line);
        assert_eq!((error.line, error.column), (3, column), "{line}: {error}");
        assert!(error.to_string().contains(part), "{line}: {error}");
        assert!(error.to_string().starts_with(&format!("acl:3:{column}: ")), "{error}");
    }
    assert_eq!(classbench::parse("acl", good).unwrap().len(), 1);
}

#[test]
fn malformed_traces_are_refused_with_their_place() {
    let good = "167772161\t167772162\t1\t2\t6\t0\n";
    for (line, column) in
        [("1 2 3", 6), ("1 2 3 4 256 0", 9), ("1 2 x 4 6 0", 5), ("4294967296 2 3 4 6 0", 1)]
    {
        let error = classbench::parse_trace("trace", &format!("{good}{line}\n")).expect_err(line);
        assert_eq!((error.line, error.column), (2, column), "{line}: {error}");
    }
    assert_eq!(classbench::parse_trace("trace", good).unwrap().len(), 1);
}
