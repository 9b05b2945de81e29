//! What a connection costs while it is idle.

use std::rc::Rc;

use crate::context::Context;
use crate::listen::Accepted;
use crate::record::Live;

/// The size of the future that a function makes.
fn future<A, B, F>(_story: impl FnOnce(A, B) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn print() {
    println!("outbound {}", future::<Rc<Context>, Accepted, _>(crate::outbound::serve));
    println!("plain {}", future::<Rc<Context>, Accepted, _>(crate::plain::serve));
    println!("carried {}", crate::inbound::carried_size());
    println!("live {} record {}", size_of::<Live>(), size_of::<mesh_core::record::Record>());
    println!("standing {}", size_of::<crate::recheck::Standing>());
    println!("accepted {}", size_of::<Accepted>());
    crate::tunnel::print_sizes();
}
