//! Where packed weights are kept.

use crate::machine;
use medgemma_kernels::PackCache;
use std::ffi::OsString;
use std::path::PathBuf;

/// The folder that the environment names: `MEDGEMMA_PACK_CACHE`, else `medgemma/packed` in the user's cache; none when it
/// says `off`, or the user has no home. Half of what is free on its disk may be filled.
pub(crate) fn from_env() -> Option<PackCache> {
    let folder = folder(|name| std::env::var_os(name))?;
    let most = machine::free_disk(&folder).map_or(0, |free| free / 2);
    Some(PackCache::new(folder, most))
}

fn folder(var: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    match path("MEDGEMMA_PACK_CACHE") {
        Some(off) if off.as_os_str() == "off" => None,
        Some(folder) => Some(folder),
        None => {
            let home = || path("HOME").or_else(|| path("USERPROFILE")).map(|home| home.join(".cache"));
            Some(path("XDG_CACHE_HOME").or_else(home)?.join("medgemma").join("packed"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_folder_is_where_the_environment_says() {
        let folder = |vars: &[(&str, &str)]| {
            folder(|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)))
        };
        let home = ("HOME", "/home/u");
        assert_eq!(folder(&[home]).unwrap(), Path::new("/home/u/.cache/medgemma/packed"));
        assert_eq!(folder(&[home, ("XDG_CACHE_HOME", "/x")]).unwrap(), Path::new("/x/medgemma/packed"));
        assert_eq!(folder(&[home, ("MEDGEMMA_PACK_CACHE", "/p")]).unwrap(), Path::new("/p"));
        assert_eq!(folder(&[home, ("MEDGEMMA_PACK_CACHE", "off")]), None);
        assert_eq!(folder(&[]), None);
    }
}
