//! Framing and rotation.

use super::*;
use proptest::prelude::*;

fn texts(records: &[Vec<u8>]) -> Vec<u8> {
    let mut output = Vec::new();
    for record in records {
        let mut parts = record
            .strip_suffix(b"\n")
            .unwrap()
            .splitn(4, |byte| *byte == b' ');
        let (_time, _stream) = (parts.next().unwrap(), parts.next().unwrap());
        let tag = parts.next().unwrap();
        let text = parts.next().unwrap();
        assert!(text.len() <= MAX_TEXT);
        output.extend_from_slice(text);
        if tag == b"F" {
            output.push(b'\n');
        }
    }
    output
}

#[test]
fn times_are_written_as_rfc_3339_has_them() {
    assert_eq!(rfc3339(Duration::ZERO), "1970-01-01T00:00:00.000000000Z");
    assert_eq!(
        rfc3339(Duration::new(951_782_400, 5)),
        "2000-02-29T00:00:00.000000005Z"
    );
    assert_eq!(
        rfc3339(Duration::new(1_798_761_599, 0)),
        "2026-12-31T23:59:59.000000000Z"
    );
}

#[test]
fn a_line_is_one_record() {
    let mut line = Line::default();
    assert!(line.push(Stream::Stdout, b"hel", Duration::ZERO).is_empty());
    let records = line.push(Stream::Stdout, b"lo\n", Duration::ZERO);
    assert_eq!(
        records,
        [b"1970-01-01T00:00:00.000000000Z stdout F hello\n"]
    );
    assert_eq!(line.finish(Stream::Stdout, Duration::ZERO), None);
}

#[test]
fn a_line_of_exactly_the_limit_is_not_cut() {
    let mut line = Line::default();
    let mut bytes = vec![b'x'; MAX_TEXT];
    bytes.push(b'\n');
    assert_eq!(line.push(Stream::Stderr, &bytes, Duration::ZERO).len(), 1);
}

#[test]
fn an_old_file_goes_when_there_are_too_many() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let spec = spec::Log {
        path: path.clone(),
        max_bytes: 100,
        max_files: 3,
    };
    let mut log = Log::open(spec).unwrap();
    for number in 0..10 {
        log.append(&[format!("{number} {}\n", "x".repeat(60)).into_bytes()]);
    }
    let first = |name: &str| {
        fs::read_to_string(directory.path().join(name))
            .unwrap()
            .remove(0)
    };
    assert_eq!(
        [first("log"), first("log.1"), first("log.2")],
        ['9', '8', '7']
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    assert_eq!(log.dropped(), 0);
}

#[test]
fn a_full_disk_loses_records_but_not_the_container() {
    let full = spec::Log {
        path: "/dev/full".into(),
        max_bytes: 100,
        max_files: 1,
    };
    let mut log = Log::open(full).unwrap();
    log.append(&[b"one\n".to_vec(), b"two\n".to_vec()]);
    assert_eq!(log.dropped(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn prop_the_texts_are_what_was_written(
        chunks in prop::collection::vec(
            prop::collection::vec(prop_oneof![4 => any::<u8>(), 1 => Just(b'\n')], 0..2000), 0..6,
        )
    ) {
        let mut line = Line::default();
        let mut records = Vec::new();
        for chunk in &chunks {
            records.extend(line.push(Stream::Stdout, chunk, Duration::ZERO));
        }
        records.extend(line.finish(Stream::Stdout, Duration::ZERO));
        prop_assert_eq!(texts(&records), chunks.concat());
    }

    #[test]
    fn prop_long_lines_are_cut_and_put_together(
        lengths in prop::collection::vec(0_usize..60_000, 1..4), step in 1_usize..40_000,
    ) {
        let written: Vec<u8> =
            lengths.iter().flat_map(|length| [vec![b'x'; *length], b"\n".to_vec()].concat()).collect();
        let mut line = Line::default();
        let mut records = Vec::new();
        for chunk in written.chunks(step) {
            records.extend(line.push(Stream::Stderr, chunk, Duration::ZERO));
        }
        prop_assert_eq!(texts(&records), written);
    }
}
