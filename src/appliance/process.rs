//! Processor time and memory of this process, from `/proc`.

use std::fs;

/// What the process has used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// User and system time of all threads.
    pub cpu_seconds: f64,
    /// Resident memory now.
    pub rss_bytes: u64,
    /// The most it ever was.
    pub rss_bytes_max: u64,
}

impl Usage {
    /// As of now; zeros where `/proc` does not say.
    pub fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            cpu_seconds: cpu_seconds().unwrap_or_default(),
            rss_bytes: kilobytes(&status, "VmRSS:"),
            rss_bytes_max: kilobytes(&status, "VmHWM:"),
        }
    }
}

fn kilobytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kb| kb * 1024)
}

/// The sum of all threads' run time, in nanoseconds of the scheduler where it keeps them, else in clock ticks.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name may contain anything but ends with the last parenthesis; utime and stime are fields 14 and 15.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    // Linux reports them in hundredths of a second on every platform (USER_HZ).
    Some(ticks as f64 / 100.0)
}

/// Share of the machine's memory in use, 0 to 1; none where `/proc` does not say.
pub fn memory_share() -> Option<f64> {
    let all = fs::read_to_string("/proc/meminfo").ok()?;
    let (total, available) = (kilobytes(&all, "MemTotal:"), kilobytes(&all, "MemAvailable:"));
    (total > 0).then(|| 1.0 - available as f64 / total as f64)
}

/// Share of the file system at `path` in use, 0 to 1; none where it does not say.
pub fn disk_share(path: &std::path::Path) -> Option<f64> {
    let all = rustix::fs::statvfs(path).ok()?;
    (all.f_blocks > 0).then(|| 1.0 - all.f_bavail as f64 / all.f_blocks as f64)
}

/// The kind of file system that `path` is on, as `/proc/mounts` names it.
pub fn file_system(path: &std::path::Path) -> String {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (_, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
            path.starts_with(point).then(|| (point.len(), kind.to_owned()))
        })
        .max_by_key(|(length, _)| *length)
        .map_or_else(|| "unknown".to_owned(), |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_uses_memory_and_time() {
        let mut sum = 0_u64;
        while Usage::now().cpu_seconds < 0.01 {
            sum = (0..100_000_u64).fold(sum, |sum, i| sum.wrapping_mul(31).wrapping_add(i));
        }
        let usage = Usage::now();
        assert!(usage.rss_bytes > 100_000 && usage.rss_bytes_max >= usage.rss_bytes, "{usage:?} {sum}");
        assert!(memory_share().is_some_and(|share| share > 0.0 && share < 1.0));
        assert!(disk_share(std::path::Path::new("/")).is_some_and(|share| (0.0..=1.0).contains(&share)));
        assert_ne!(file_system(std::path::Path::new("/proc")), "unknown");
    }
}
