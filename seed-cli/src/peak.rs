//! Memory of this process, where the system counts it.

/// Most bytes in memory at any time so far, or since [`forget`].
pub(crate) fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Lets [`peak`] begin anew; whether the system can.
pub(crate) fn forget() -> bool {
    const RESET_PEAK: &str = "5"; // proc(5), /proc/pid/clear_refs
    std::fs::write("/proc/self/clear_refs", RESET_PEAK).is_ok()
}

/// In words.
pub(crate) fn gigabytes(bytes: Option<u64>) -> String {
    bytes.map_or("unknown".to_owned(), |bytes| format!("{:.2} GB", bytes as f64 / 1e9))
}
