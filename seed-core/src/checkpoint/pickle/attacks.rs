//! Files that nobody's PyTorch wrote: pickles, archives and layouts made by hand, each refused for its own reason.

use crate::checkpoint::Weights;
use crate::error::Error;

/// A legacy file: the object's pickle, a list of keys, and storages as element counts and bytes.
fn legacy(object: &[u8], storages: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    let mut file = [magic.as_slice(), object, b"\x80\x02]("].concat();
    for (key, ..) in storages {
        file.extend(text(key));
    }
    file.extend(b"e.");
    for (_, count, bytes) in storages {
        file.extend(count.to_le_bytes());
        file.extend(*bytes);
    }
    file
}

fn text(text: &str) -> Vec<u8> {
    [b"X", (text.len() as u32).to_le_bytes().as_slice(), text.as_bytes()].concat()
}

fn int(value: i64) -> Vec<u8> {
    [b"\x8a\x08".as_slice(), &value.to_le_bytes()].concat()
}

fn tuple(items: &[i64]) -> Vec<u8> {
    [b"(".to_vec(), items.iter().flat_map(|&item| int(item)).collect(), b"t".to_vec()].concat()
}

/// The opcodes for a float32 storage of `elements`.
fn storage(key: &str, elements: i64) -> Vec<u8> {
    [
        b"(".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text(key),
        text("cpu"),
        int(elements),
        b"tQ".into(),
    ]
    .concat()
}

/// The opcodes for a tensor of `storage`.
fn tensor(storage: &[u8], offset: i64, size: &[i64], stride: &[i64]) -> Vec<u8> {
    let function = b"ctorch._utils\n_rebuild_tensor_v2\n(".as_slice();
    [function, storage, &int(offset), &tuple(size), &tuple(stride), b"\x89NtR"].concat()
}

/// The pickle of a dictionary, from the opcodes of its keys and values.
fn dict(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pairs: Vec<u8> = pairs.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"\x80\x02}(".as_slice(), &pairs, b"u."].concat()
}

/// A file whose only tensor is a view of twelve float32 values, 0 to 11.
fn view(offset: i64, size: &[i64], stride: &[i64]) -> Vec<u8> {
    let values: Vec<u8> = (0..12u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
    legacy(&dict(&[("w", tensor(&storage("0", 12), offset, size, stride))]), &[("0", 12, &values)])
}

fn open(bytes: Vec<u8>) -> Result<Weights, Error> {
    Weights::embedded(bytes.leak(), "attack.pt")
}

/// The message of a file that is broken, rather than dangerous.
#[track_caller]
fn broken(bytes: Vec<u8>) -> String {
    match open(bytes).unwrap_err() {
        Error::WeightFile { file, reason } if file.starts_with("attack.pt") => reason,
        other => panic!("{other}"),
    }
}

/// Where a file is refused, and for what.
#[track_caller]
fn refused(bytes: Vec<u8>) -> (usize, String) {
    match open(bytes).unwrap_err() {
        Error::PickleRefused { file, offset, what } if file.starts_with("attack.pt") => (offset, what),
        other => panic!("{other}"),
    }
}

/// Where the object's pickle begins in a legacy file.
const OBJECT: usize = 15 + 6 + 4;

#[test]
fn calls_of_functions_are_refused_by_name_and_place() {
    let attacks: [(&[u8], &str); 9] = [
        (b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.", "the name os.system"),
        (b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R.", "the name posix.system"),
        (b"\x80\x02c__builtin__\neval\nX\x01\0\0\x001\x85R.", "the name __builtin__.eval"),
        (b"\x80\x02cbuiltins\ngetattr\n.", "the name builtins.getattr"),
        (b"\x80\x02ctorch\nload\nX\x01\0\0\x00a\x85R.", "the name torch.load"),
        (b"\x80\x02ctorch.hub\nload\n.", "the name torch.hub.load"),
        (b"\x80\x02cnumpy\nload\n.", "the name numpy.load"),
        // A dotted name reaches through an allowed module in Python.
        (b"\x80\x02ctorch\n_utils.warnings.sys.modules\n.", "the name torch._utils.warnings.sys.modules"),
        (b"\x80\x02ccollections\nOrderedDict.fromkeys\n.", "the name collections.OrderedDict.fromkeys"),
    ];
    for (object, what) in attacks {
        assert_eq!(refused(legacy(object, &[])), (OBJECT + 2, what.to_owned()));
    }
    let stack_global = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.";
    assert_eq!(refused(legacy(stack_global, &[])), (OBJECT + 2 + 4 + 8, "the name os.system".into()));
    // Names are not repeated at any length, nor with control characters.
    let (_, what) = refused(legacy(&[b"\x80\x02c\x1b[2J", vec![b'a'; 10_000].as_slice(), b"\nb\n."].concat(), &[]));
    assert!(what.len() < 100 && what.contains("\\u{1b}[2J"), "{what}");
    let message = open(legacy(attacks[0].0, &[])).unwrap_err().to_string();
    for needed in ["attack.pt is refused", "byte 27", "os.system", "could run code", "safetensors"] {
        assert!(message.contains(needed), "{message}");
    }
}

#[test]
fn opcodes_beyond_the_list_are_refused_by_name() {
    let attacks: [(&[u8], &str); 8] = [
        (b"(S'true'\nios\nsystem\n.", "the opcode STRING (0x53)"),
        (b"(ios\nsystem\n.", "the opcode INST (0x69)"),
        (b"(NNo.", "the opcode OBJ (0x6f)"),
        (b"))}\x92.", "the opcode NEWOBJ_EX (0x92)"),
        (b"\x82\x01.", "the opcode EXT1 (0x82)"),
        (b"Pid\n.", "the opcode PERSID (0x50)"),
        (b"\x97.", "the opcode NEXT_BUFFER (0x97)"),
        (b"\xff.", "the opcode 0xff, which pickle does not have"),
    ];
    for (object, what) in attacks {
        assert_eq!(refused(legacy(&[b"\x80\x02", object].concat(), &[])).1, what);
    }
    assert!(broken(legacy(b"\x80\x01}.", &[])).contains("protocol 1"));
    assert!(broken(legacy(b"\x80\x06}.", &[])).contains("protocol 6"));
}

#[test]
fn only_names_of_the_list_are_called_and_with_fitting_arguments() {
    assert_eq!(refused(legacy(b"\x80\x02X\x01\0\0\0a)R.", &[])).1, "a call of a str");
    assert_eq!(refused(legacy(b"\x80\x02ctorch\ndevice\n)\x81.", &[])).1, "an object of a type");
    for call in [
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.".as_slice(),
        b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))\x89NtR.",
        b"ctorch._utils\n_rebuild_parameter\nN\x88N\x87R.",
        b"ctorch._utils\n_rebuild_tensor_v3\n(NK\x00))\x89Nctorch\nfloat16\ntR.",
        b"ctorch\nFloatStorage\nK\x09\x85R.",
        b"ccollections\nOrderedDict\nK\x09\x85R.",
        b"ccollections\nOrderedDict\n](K\x01K\x02e\x85R.",
        b"ctorch\nSize\nK\x09\x85R.",
        b"c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0zip\x86R.",
        b"ccollections\nOrderedDict\nNR.",
        b"K\x01}b.",
        b"]}b.",
        b"}K\x01b.",
        b"]K\x01K\x02s.",
        b"}K\x01a.",
        b"](K\x01\x90.",
        b"K\x01Q.",
        b"(X\x06\0\0\0moduleN)NNtQ.",
    ] {
        // All of these break at their last opcode before STOP.
        let reason = broken(legacy(&[b"\x80\x02", call].concat(), &[]));
        assert!(reason.starts_with(&format!("at byte {} ", OBJECT + call.len())), "{}: {reason}", call.escape_ascii());
    }
}

#[test]
fn what_lies_below_a_mark_is_out_of_reach() {
    for opcodes in [b"NN(\x86t.".as_slice(), b"N(0.", b"N(q\x00.", b"](Na(.", b"Nt.", b"N1.", b"0.", b"."] {
        let reason = broken(legacy(&[b"\x80\x02", opcodes].concat(), &[]));
        assert!(reason.contains("more values than there are"), "{}: {reason}", opcodes.escape_ascii());
    }
}

#[test]
fn bombs_are_cheap() {
    // A memo index of 2^31 is one entry, not a table.
    let weights = open(legacy(b"\x80\x02}r\0\0\0\x80r\xff\xff\xff\xff0j\0\0\0\x80.", &[])).unwrap();
    assert_eq!(weights.keys().len(), 0);
    assert!(broken(legacy(b"\x80\x02h\x07.", &[])).contains("memo entry 7"));

    // Lengths are compared with the file before anything is taken.
    for claim in [
        b"X\xff\xff\xff\xffabc".as_slice(),
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc",
        b"\x8e\0\0\0\0\0\0\0\x10",
        b"\x8b\xff\xff\xff\x7f",
        b"T\xff\xff\xff\xff",
    ] {
        broken(legacy(&[b"\x80\x02", claim, b"."].concat(), &[]));
    }

    // Twice as many references at each level: 2^40 keys.
    let mut doubled = b"\x80\x02}q\x00X\x01\0\0\0aK\x01s".to_vec();
    for level in 1..=40 {
        doubled.extend([b'}', b'q', level, b'(']);
        for key in ["a", "b"] {
            doubled.extend([text(key), vec![b'h', level - 1]].concat());
        }
        doubled.push(b'u');
    }
    doubled.push(b'.');
    assert!(broken(legacy(&doubled, &[])).contains("keys take more than"));

    // A list that holds itself, a dictionary that holds itself.
    let list = [b"\x80\x02}".as_slice(), &text("l"), b"]q\x00h\x00as."].concat();
    assert_eq!(open(legacy(&list, &[])).unwrap().skipped()[0].kind, "list");
    let circle = [b"\x80\x02}q\x00".as_slice(), &text("d"), b"h\x00s."].concat();
    assert!(broken(legacy(&circle, &[])).contains("nested"));

    // A million nested lists, with and without marks: neither walking nor freeing them may recurse.
    let lists = [b"\x80\x02}".as_slice(), &text("l"), &[b']'; 1_000_000], &[b'a'; 999_999], b"s."].concat();
    assert_eq!(open(legacy(&lists, &[])).unwrap().skipped().len(), 1);
    assert!(broken(legacy(&[b"\x80\x02".as_slice(), &[b'('; 100_000]].concat(), &[])).contains("nested"));
    let tuples = [b"\x80\x02}".as_slice(), &text("l"), b")", &[0x85; 1_000_000], b"s."].concat();
    assert_eq!(open(legacy(&tuples, &[])).unwrap().skipped().len(), 1);

    assert!(broken(legacy(&[b"\x80\x02".as_slice(), &vec![b'N'; 4_000_001], b"."].concat(), &[])).contains("steps"));
    // A list of a thousand pairs, copied ten thousand times.
    let mut pairs = b"\x80\x02](".to_vec();
    pairs.extend(b"NN\x86".repeat(1_000));
    pairs.extend(b"eq\x000");
    pairs.extend(b"ccollections\nOrderedDict\nh\x00\x85R0".repeat(10_000));
    assert!(broken(legacy(&[&pairs, b"}.".as_slice()].concat(), &[])).contains("steps"));
}

#[test]
fn views_stay_in_their_storage() {
    let values =
        |offset, size: &[i64], stride: &[i64]| open(view(offset, size, stride)).map(|w| w.floats("w").unwrap());
    assert_eq!(values(0, &[3, 4], &[4, 1]).unwrap(), (0..12).map(|v| v as f32).collect::<Vec<_>>());
    assert_eq!(values(1, &[2, 3], &[1, 4]).unwrap(), [1., 5., 9., 2., 6., 10.]);
    assert_eq!(values(11, &[], &[]).unwrap(), [11.]);
    assert_eq!(values(11, &[1, 1], &[i64::MAX, i64::MAX]).unwrap(), [11.]);
    assert_eq!(values(2, &[2, 2], &[0, 3]).unwrap(), [2., 5., 2., 5.]);
    assert!(values(12, &[0, 4], &[4, 1]).unwrap().is_empty());

    let outside: [(i64, &[i64], &[i64]); 11] = [
        (1, &[3, 4], &[4, 1]),
        (0, &[13], &[1]),
        (0, &[2, 2], &[11, 1]),
        (12, &[], &[]),
        (13, &[0], &[1]),
        (i64::MAX, &[1], &[1]),
        (0, &[2], &[i64::MAX]),
        (0, &[i64::MAX, i64::MAX], &[0, 0]),
        (0, &[3, 3], &[i64::MAX, i64::MAX]),
        (0, &[0, i64::MAX, i64::MAX], &[1, 1, 1]),
        (i64::MAX / 4, &[2], &[i64::MAX / 2]),
    ];
    for (offset, size, stride) in outside {
        let reason = broken(view(offset, size, stride));
        assert!(reason.contains("leaves its storage of 12"), "{reason}");
    }
    assert!(broken(view(0, &[1 << 40], &[0])).contains("repeats"));
    for (offset, size, stride) in [
        (-1, [1i64].as_slice(), [1i64].as_slice()),
        (0, &[-1], &[1]),
        (0, &[1], &[-1]),
        (0, &[1, 1], &[1]),
        (0, &[1; 17], &[1; 17]),
    ] {
        broken(view(offset, size, stride));
    }
}

#[test]
fn storages_are_what_the_pickle_says() {
    let file = |claimed: i64, listed: &[(&str, u64, &[u8])]| {
        legacy(&dict(&[("w", tensor(&storage("0", claimed), 0, &[1], &[1]))]), listed)
    };
    let eight = [0; 8].as_slice();
    assert!(open(file(2, &[("0", 2, eight)])).is_ok());
    for (claimed, listed, needed) in [
        (3, &[("0", 3, eight)][..], "cut off in storage \"0\""),
        (i64::MAX / 4, &[("0", i64::MAX as u64 / 4, eight)], "cut off"),
        (3, &[("0", 2, eight)], "2 elements where its pickle says 3"),
        (2, &[("0", u64::MAX, eight)], "where its pickle says 2"),
        (-1, &[("0", 2, eight)], "claims -1 elements"),
        (i64::MAX, &[("0", 2, eight)], "claims 9223372036854775807 elements"),
        (2, &[], "lacks storage \"0\""),
        (2, &[("0", 2, eight), ("0", 2, eight)], "twice"),
        (2, &[("0", 2, eight), ("1", 2, eight)], "no tensor uses its storage \"1\""),
        (2, &[("0", 2, &[0; 9])], "1 bytes follow its last storage"),
    ] {
        let reason = broken(file(claimed, listed));
        assert!(reason.contains(needed), "{reason}");
    }
    let twice = dict(&[("a", tensor(&storage("0", 2), 0, &[1], &[1])), ("b", tensor(&storage("0", 1), 0, &[1], &[1]))]);
    assert!(broken(legacy(&twice, &[("0", 2, eight)])).contains("two sizes or types"));
}

#[test]
fn keys_are_unique_and_objects_are_dictionaries() {
    let w = || tensor(&storage("0", 1), 0, &[1], &[1]);
    let file = |object: &[u8]| legacy(object, &[("0", 1, &[0; 4])]);
    assert!(broken(file(&dict(&[("a", w()), ("a", w())]))).contains("the key a twice"));
    let inner = |value: Vec<u8>| [b"}".as_slice(), &text("b"), &value, b"s"].concat();
    assert!(broken(file(&dict(&[("a.b", w()), ("a", inner(w()))]))).contains("the key a.b twice"));
    assert!(broken(file(&dict(&[("a", inner(w())), ("a.b", b"N".to_vec())]))).contains("the key a.b twice"));
    // A wrapper that stands twice is no single wrapper.
    let twice = dict(&[("model", inner(w())), ("model", inner(w()))]);
    assert!(broken(file(&twice)).contains("the key model.b twice"));

    let tensor_alone = [b"\x80\x02".as_slice(), &w(), b"."].concat();
    assert!(broken(file(&tensor_alone)).contains("it holds a tensor, not a state dict"));
    assert!(broken(legacy(b"\x80\x02].", &[])).contains("it holds a list"));
    assert!(broken(legacy(b"\x80\x02N.", &[])).contains("it holds a None"));
    assert!(broken(legacy(b"\x80\x02}NNs.", &[])).contains("keys that are no text"));
    let odd = open(legacy(&dict(&[("a", b"}(K\x01N))u".to_vec())]), &[])).unwrap();
    assert_eq!(odd.skipped()[0].to_string(), "a (dict)");
}

#[test]
fn a_legacy_file_has_its_five_parts() {
    let whole = legacy(b"\x80\x02}.", &[]);
    assert!(open(whole.clone()).is_ok());
    let with = |at: usize, bytes: &[u8]| {
        let mut file = whole.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    assert!(broken(with(15 + 3, b"\xea")).contains("protocol version"));
    assert!(broken(with(OBJECT - 2, b"]")).contains("facts of the system"));
    let big = [&whole[..OBJECT - 2], b"}", &text("little_endian"), b"\x89s.", &whole[OBJECT..]].concat();
    assert!(broken(big).contains("big-endian"));
    // The magic number in a text is not the magic number.
    let text = b"\x80\x02U\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    assert!(broken(text.to_vec()).contains("magic number"));
}

/// How an archive's entry differs from what torch.save writes.
#[derive(Clone, Copy, PartialEq)]
enum Oddity {
    None,
    Zip64,
    Compressed,
    Encrypted,
    Checksum,
    Count,
}

/// Name and content.
type Entry<'a> = (&'a str, &'a [u8]);

/// A zip archive of stored entries.
fn zip(entries: &[Entry], oddity: Oddity) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let offset = file.len() as u64;
        let flags = u16::from(oddity == Oddity::Encrypted);
        let method = 8 * u16::from(oddity == Oddity::Compressed);
        let checksum = rawzip::crc32(data) ^ u32::from(oddity == Oddity::Checksum);
        let (size, name_length) = (data.len() as u64, name.len() as u16);
        let short = |value: u64| if oddity == Oddity::Zip64 { u32::MAX } else { value as u32 }.to_le_bytes();
        let extra = match oddity {
            Oddity::Zip64 => {
                [&[1, 0, 24, 0], &size.to_le_bytes()[..], &size.to_le_bytes(), &offset.to_le_bytes()].concat()
            }
            _ => Vec::new(),
        };
        let [flags, method] = [flags, method].map(u16::to_le_bytes);
        let sizes = [checksum.to_le_bytes(), short(size), short(size)].concat();
        let name_lengths = [name_length.to_le_bytes(), (extra.len() as u16).to_le_bytes()].concat();
        let common = [&[45, 0], &flags[..], &method, &[0; 4], &sizes, &name_lengths].concat();
        file.extend([b"PK\x03\x04".as_slice(), &common, name.as_bytes(), &extra, data].concat());
        let rest = [[0; 10].as_slice(), &short(offset)].concat();
        directory.extend([b"PK\x01\x02\x2d\0", &common[..], &rest, name.as_bytes(), &extra].concat());
    }
    let (at, size) = (file.len() as u64, directory.len() as u64);
    let count = entries.len() as u64 + u64::from(oddity == Oddity::Count);
    file.extend(directory);
    if oddity == Oddity::Zip64 {
        let end = file.len() as u64;
        let record = [44, 45 | 45 << 16, 0, count, count, size, at];
        let fields: Vec<u8> = match record {
            [length, versions, disks, rest @ ..] => {
                let start = [&length.to_le_bytes()[..], &versions.to_le_bytes()[..4], &disks.to_le_bytes()].concat();
                [start, rest.iter().flat_map(|value| value.to_le_bytes()).collect()].concat()
            }
        };
        file.extend([b"PK\x06\x06".as_slice(), &fields].concat());
        file.extend([b"PK\x06\x07".as_slice(), &[0; 4], &end.to_le_bytes(), &[1, 0, 0, 0]].concat());
        file.extend([b"PK\x05\x06\0\0\0\0".as_slice(), &[0xff; 12], &[0; 2]].concat());
    } else {
        let count = (count as u16).to_le_bytes();
        let place = [(size as u32).to_le_bytes(), (at as u32).to_le_bytes()].concat();
        file.extend([b"PK\x05\x06\0\0\0\0".as_slice(), &count, &count, &place, &[0; 2]].concat());
    }
    file
}

#[test]
fn archives_are_what_torch_writes() {
    let object = dict(&[("w", tensor(&storage("0", 2), 0, &[2], &[1]))]);
    let values = [1f32.to_le_bytes(), 2f32.to_le_bytes()].concat();
    let [pickle, data] = [("a/data.pkl", object.as_slice()), ("a/data/0", values.as_slice())];
    for oddity in [Oddity::None, Oddity::Zip64] {
        let weights = open(zip(&[pickle, ("a/byteorder", b"little"), data], oddity)).unwrap();
        assert_eq!(weights.floats("w").unwrap(), [1., 2.]);
    }
    for (oddity, needed) in [
        (Oddity::Compressed, "data.pkl is compressed, which torch.save never does"),
        (Oddity::Encrypted, "data.pkl is encrypted"),
        (Oddity::Checksum, "the checksum of a/data.pkl is wrong"),
        (Oddity::Count, "lists 2 entries of 3"),
    ] {
        let reason = broken(zip(&[pickle, data], oddity));
        assert!(reason.contains(needed), "{reason}");
    }
    let long = [values.as_slice(), &[0; 4]].concat();
    let cases: [(&[Entry], &str); 9] = [
        (&[pickle, data, ("a/byteorder", b"big")], "big-endian"),
        (&[pickle, data, ("a/byteorder", b"")], "neither little nor big"),
        (&[pickle, data, ("a/constants.pkl", b"")], "TorchScript"),
        (&[pickle, data, data], "holds a/data/0 twice"),
        (&[pickle, data, ("b/data.pkl", b"")], "without one data.pkl"),
        (&[data, ("readme.txt", b"hi")], "without one data.pkl"),
        (&[pickle], "it lacks storage \"0\""),
        (&[pickle, ("a/data/0", &values[..4])], "has 4 bytes where its pickle says 8"),
        (&[pickle, ("a/data/0", &long)], "has 12 bytes where its pickle says 8"),
    ];
    for (entries, needed) in cases {
        let reason = broken(zip(entries, Oddity::None));
        assert!(reason.contains(needed), "{reason}");
    }
    assert!(broken(b"PK\x05\x06".to_vec()).contains("zip directory"));

    let attack = b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.".as_slice();
    let error = open(zip(&[("a/data.pkl", attack)], Oddity::None)).unwrap_err().to_string();
    assert!(error.contains("attack.pt (a/data.pkl) is refused: byte 2 of its pickle"), "{error}");
}
