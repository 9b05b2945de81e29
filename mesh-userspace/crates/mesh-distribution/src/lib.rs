//! What the controller tells the nodes, and how.
