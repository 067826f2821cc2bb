//! Messages, their JSON, and clients, generated from `proto/`.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

macro_rules! package {
    ($(#[$doc:meta])* $module:ident = $name:literal) => {
        $(#[$doc])*
        pub mod $module {
            include!(concat!(env!("OUT_DIR"), "/", $name, ".rs"));
            include!(concat!(env!("OUT_DIR"), "/", $name, ".serde.rs"));
        }
    };
}

package!(authpb = "authpb");
package!(etcdserverpb = "etcdserverpb");
package!(health = "grpc.health.v1");
package!(mvccpb = "mvccpb");
package!(v3electionpb = "v3electionpb");
package!(v3lockpb = "v3lockpb");

/// Servers. Their hot answers are the types of [`crate::encoded`].
pub(crate) mod served {
    pub mod etcdserverpb {
        include!(concat!(env!("OUT_DIR"), "/served/etcdserverpb.rs"));
    }
    pub mod health {
        include!(concat!(env!("OUT_DIR"), "/served/grpc.health.v1.rs"));
    }
}
