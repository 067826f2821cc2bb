//! Everything a client talks to, over one [`front::Front`].

pub mod front;
