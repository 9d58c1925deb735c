//! What the numbers were measured on.

/// Processor, threads, version, and how busy the machine was before: numbers of a busy machine are not its own.
pub(crate) fn describe() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let processor = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let processor = processor.map_or("unknown processor", |(_, name)| name.trim());
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().filter(|load| !load.is_empty()).unwrap_or("unknown");
    let build = if cfg!(debug_assertions) { "**a debug build, not to be cited**" } else { "release build" };
    format!(
        "seed {}, {build}; {processor}, {} threads; load average over the minute before: {load}",
        env!("CARGO_PKG_VERSION"),
        rayon::current_num_threads(),
    )
}
