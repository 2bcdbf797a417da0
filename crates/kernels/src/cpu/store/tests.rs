//! What was packed before is what would be packed now, or isn't used.

use super::*;
use crate::backend::{Backend, WeightFormat};
use crate::cpu::testing::tensor;
use crate::cpu::{CpuBackend, CpuWeight};
use medgemma_formats::{DType, Tensor};
use std::sync::Barrier;

/// A source file, a cache beside it, and what is packed.
struct Bench {
    folder: tempfile::TempDir,
    tensors: Vec<Tensor>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("model.gguf"), b"weights").unwrap();
        let tensors = [(DType::Q4_0, 40, 512), (DType::Q6K, 300, 256), (DType::BF16, 17, 96), (DType::F32, 1, 8)];
        let tensors = tensors.into_iter().zip(1..).map(|((dtype, n, k), seed)| tensor(seed, dtype, n, k)).collect();
        Self { folder, tensors }
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("model.gguf")
    }

    fn cache(&self) -> PackCache {
        PackCache::new(self.folder.path().join("a/packed"), 1 << 30).of_any_size()
    }

    /// Loads all tensors; says which of them came from, or went to, a file.
    fn load(&self, cache: Option<PackCache>, format: WeightFormat) -> (Vec<CpuWeight>, bool) {
        let backend = CpuBackend::new(Some(2)).keeping(cache);
        backend.begin(&Part { name: "decoder", files: &[&self.source()], format });
        let reading = matches!(*backend.store.lock().unwrap(), Store::Reading(_));
        let weights = self.tensors.iter().map(|tensor| backend.weight(&[tensor], format).unwrap()).collect();
        backend.finish(true);
        (weights, reading)
    }

    /// Loads, holds every byte against what is packed in memory, and says whether a file was read.
    fn check(&self, cache: &PackCache, format: WeightFormat) -> bool {
        let (expected, _) = self.load(None, format);
        let (found, reading) = self.load(Some(cache.clone()), format);
        for (expected, found) in expected.iter().zip(&found) {
            for (expected, found) in expected.segments().iter().zip(found.segments()) {
                assert_eq!(expected.layout, found.layout);
                (0..expected.panels()).for_each(|panel| assert_eq!(expected.panel(panel), found.panel(panel)));
            }
        }
        reading
    }

    fn file(&self) -> PathBuf {
        let files = self.cache().list();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].path.clone()
    }
}

/// Puts another file in the place of one, which may still be about to be sealed.
fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

fn left_over(cache: &PackCache) -> usize {
    fs::read_dir(cache.folder()).map_or(0, Iterator::count)
}

#[test]
fn the_second_load_maps_what_the_first_one_packed() {
    let bench = Bench::new();
    let cache = bench.cache();
    for format in [WeightFormat::Stored, WeightFormat::Q8] {
        assert!(!bench.check(&cache, format));
        assert!(bench.check(&cache, format));
        assert!(bench.check(&cache, format));
    }
    let listed = cache.list();
    assert_eq!(listed.len(), 2);
    assert_eq!(left_over(&cache), 2);
    for packed in listed {
        assert_eq!((packed.part.as_str(), packed.files), ("decoder", vec![bench.source().canonicalize().unwrap()]));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&packed.path), mode(cache.folder())), (0o600, 0o700));
        }
    }
}

/// Pieces in which a file is written end in the middle of panels.
#[test]
fn a_weight_of_several_pieces_is_whole() {
    let mut bench = Bench::new();
    bench.tensors.push(tensor(9, DType::Q8_0, 1100, 5120));
    let cache = bench.cache();
    assert!(!bench.check(&cache, WeightFormat::Stored));
    assert!(bench.check(&cache, WeightFormat::Stored));
}

#[test]
fn a_damaged_file_is_made_anew() {
    let bench = Bench::new();
    let cache = bench.cache();
    bench.check(&cache, WeightFormat::Stored);
    let whole = fs::read(bench.file()).unwrap();
    let head = Head::read(&whole[..HEAD], VERSION).unwrap();
    let ends = head.entries.iter().flat_map(|entry| [entry.offset, entry.offset + entry.len - 1]);
    let truncated = ends.chain([0, 8, HEAD as u64 - 1, head.len - 1]).map(|len| whole[..len as usize].to_vec());
    let flipped = [0, 8, 12, 16, 24, 33, 50, 81, 120, 400].map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    });
    let longer = [&whole[..], b"more"].concat();
    for damaged in truncated.chain(flipped).chain([longer]) {
        replace(&bench.file(), &damaged);
        assert!(!bench.check(&cache, WeightFormat::Stored));
        assert!(bench.check(&cache, WeightFormat::Stored), "it was not made anew");
    }
}

/// A whole file in the place of another: of other tensors, another version, another key, another boot.
#[test]
fn a_foreign_file_is_made_anew() {
    let bench = Bench::new();
    let cache = bench.cache();
    bench.check(&cache, WeightFormat::Stored);
    let path = bench.file();
    let whole = fs::read(&path).unwrap();
    let head = Head { sealed: false, ..Head::read(&whole[..HEAD], VERSION).unwrap() };
    let with = |head: Head, version: u32| [&head.to_bytes(version).unwrap(), &whole[HEAD..]].concat();
    let mut swapped = head.clone();
    swapped.entries[1].tag ^= 1;
    let mut short = head.clone();
    short.entries.pop();
    for (what, foreign) in [
        ("version", with(head.clone(), VERSION + 1)),
        ("key", with(Head { key: head.key.replace("Stored", "Q4"), ..head.clone() }, VERSION)),
        ("boot", with(Head { boot: "another".into(), ..head.clone() }, VERSION)),
    ] {
        replace(&path, &foreign);
        assert!(!bench.check(&cache, WeightFormat::Stored), "{what}");
        assert!(bench.check(&cache, WeightFormat::Stored), "{what}");
    }
    // What is amiss inside is found on the way; the load after the next has a good file again.
    for foreign in [with(swapped, VERSION), with(short, VERSION)] {
        replace(&path, &foreign);
        assert!(bench.check(&cache, WeightFormat::Stored));
        assert!(!bench.check(&cache, WeightFormat::Stored));
        assert!(bench.check(&cache, WeightFormat::Stored));
    }
    // Sealed, it may be of any boot.
    replace(&path, &with(Head { boot: "another".into(), sealed: true, ..head }, VERSION));
    assert!(bench.check(&cache, WeightFormat::Stored));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(!bench.check(&cache, WeightFormat::Stored), "others may write it");
    }
}

#[test]
fn changed_sources_are_packed_anew_and_what_is_stale_goes() {
    let bench = Bench::new();
    let cache = bench.cache();
    bench.check(&cache, WeightFormat::Stored);
    let before = bench.file();
    fs::write(bench.source(), b"other weights").unwrap();
    assert_eq!(cache.list()[0].part, "", "it can't be used any more");
    assert!(!bench.check(&cache, WeightFormat::Stored));
    assert_ne!(bench.file(), before);
    assert!(bench.check(&cache, WeightFormat::Stored));
    // An unfinished file of a process that was killed.
    let abandoned = cache.folder().join("decoder-0.1-0.part");
    let file = File::create(&abandoned).unwrap();
    file.set_modified(std::time::SystemTime::now() - 2 * ABANDONED).unwrap();
    bench.check(&cache, WeightFormat::Q8);
    assert!(!abandoned.exists());
}

#[test]
fn without_room_weights_are_packed_into_memory() {
    let bench = Bench::new();
    for most in [0, 70_000, 150_000, 200_000] {
        let cache = PackCache { most, ..bench.cache() };
        assert!(!bench.check(&cache, WeightFormat::Stored));
        assert_eq!(left_over(&cache), 0, "at most {most} bytes");
    }
    // A folder that can't be made.
    let cache = PackCache::new(bench.source().join("packed"), 1 << 30).of_any_size();
    assert!(!bench.check(&cache, WeightFormat::Stored));
}

/// `/dev/full` is a disk without room.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_no_error() {
    let full = OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let temporary = folder.path().join("x.part");
    let path = folder.path().join("x.pack");
    let head = Head { len: HEAD as u64, ..Head::default() };
    let mut store = Store::Writing(Growing { file: full, temporary, path, head, most: 1 << 30 });
    let kept = store.put(1, 10, |file| file.write_at(&[0; 10], 0)).unwrap();
    assert!(kept.is_none() && matches!(store, Store::Off));
}

#[test]
fn a_part_that_was_not_loaded_whole_is_not_kept() {
    let bench = Bench::new();
    let cache = bench.cache();
    let backend = CpuBackend::new(Some(1)).keeping(Some(cache.clone()));
    let part = Part { name: "decoder", files: &[&bench.source()], format: WeightFormat::Stored };
    backend.begin(&part);
    backend.weight(&[&bench.tensors[0]], WeightFormat::Stored).unwrap();
    backend.finish(false);
    assert_eq!(left_over(&cache), 0);
    // Small sources aren't kept, nor are weights that don't come from files.
    let usual = PackCache::new(cache.folder(), 1 << 30);
    assert!(matches!(usual.begin(&part, ""), Store::Off));
    assert!(matches!(cache.begin(&Part { files: &[], ..part }, ""), Store::Off));
}

#[test]
fn loads_at_the_same_time_do_not_disturb_each_other() {
    let bench = Bench::new();
    let cache = bench.cache();
    let together = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                together.wait();
                for _ in 0..5 {
                    bench.check(&cache, WeightFormat::Stored);
                }
            });
        }
    });
    assert!(bench.check(&cache, WeightFormat::Stored));
    assert_eq!(left_over(&cache), 1);
}
