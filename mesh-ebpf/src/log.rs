//! Lines for whoever debugs a program, through aya-log. Compiled in by the feature `log` only: a line that is not
//! there costs neither instructions nor a map.

#[cfg(feature = "log")]
macro_rules! debug {
    ($context:expr, $($message:tt)+) => { aya_log_ebpf::debug!($context, $($message)+) };
}

#[cfg(not(feature = "log"))]
macro_rules! debug {
    ($($nothing:tt)*) => {};
}

pub(crate) use debug;
