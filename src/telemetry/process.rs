//! The `process_*` series that every Prometheus client has, read from /proc/self when somebody asks.

use std::time::SystemTime;

use prometheus::{
    Gauge, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// Reads the process's own figures at each scrape.
pub(super) struct ProcessCollector {
    cpu_seconds: prometheus::Counter,
    resident: Gauge,
    virtual_size: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    start_time: Gauge,
    threads: Gauge,
}

impl ProcessCollector {
    /// To be made when the process starts: that moment is taken for its start.
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let gauge = |name, help| Gauge::with_opts(Opts::new(name, help));
        let start_time = gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.")?;
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        start_time.set(since_epoch.as_secs_f64());
        Ok(Self {
            cpu_seconds: prometheus::Counter::new(
                "process_cpu_seconds_total",
                "Total user and system CPU time spent in seconds.",
            )?,
            resident: gauge("process_resident_memory_bytes", "Resident memory size in bytes.")?,
            virtual_size: gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.")?,
            open_fds: gauge("process_open_fds", "Number of open file descriptors.")?,
            max_fds: gauge("process_max_fds", "Maximum number of open file descriptors.")?,
            start_time,
            threads: gauge("process_threads", "Number of OS threads in the process.")?,
        })
    }

    /// What the kernel keeps of this process. Only /proc/self is read: a sandbox may hide the rest of /proc.
    fn read_stat(&self) -> Option<()> {
        // The fields after the command's closing bracket; the first is number 3 of proc(5).
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as f64;
        let cpu = (field(14)? + field(15)?) / ticks;
        // A counter only goes up; what it is behind is what was spent since the last scrape.
        self.cpu_seconds.inc_by((cpu - self.cpu_seconds.get()).max(0.0));
        self.threads.set(field(20)?);
        self.virtual_size.set(field(23)?);
        self.resident.set(field(24)? * page);
        Some(())
    }

    fn read_descriptors(&self) -> Option<()> {
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        self.max_fds.set(most.map_or(f64::INFINITY, |most| most as f64));
        // The folder's own descriptor is one of those it lists.
        self.open_fds.set(std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64);
        Some(())
    }

    fn all(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu_seconds,
            &self.resident,
            &self.virtual_size,
            &self.open_fds,
            &self.max_fds,
            &self.start_time,
            &self.threads,
        ]
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Where /proc cannot be read the figures stand still, and that is all that is lost.
        self.read_stat();
        self.read_descriptors();
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}
