//! mesh-kernel
