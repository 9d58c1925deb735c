//! How freed memory is kept for reuse.

/// Keeps freed memory. Tensors are large, and there are thousands a second: by default glibc maps each from the system
/// and gives it back, which takes three times the system time in training. (mimalloc, which gives memory back after some
/// milliseconds, takes three times that of glibc.)
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn keep() {
    const NEVER: i32 = -1;
    // SAFETY: `mallopt` takes two numbers and is called before there are other threads. It cannot fail in a way that
    // matters: what it refuses stays as it was.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, NEVER);
    }
}

/// Other systems keep memory as they see fit.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn keep() {}
