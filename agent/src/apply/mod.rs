//! Making a host what it is told to be. Each module takes wanted state, looks
//! at what is there and changes only what differs.
//!
//! | module | what it settles |
//! |---|---|
//! | [`hostname`] | `/etc/hostname` and the kernel's host name |
//! | [`network`] | static addresses, through NetworkManager |
//! | [`users`] | logins and their ssh keys |
//! | [`k3s`] | every file k3s must find at its first start |
//! | [`restore`] | a datastore that k3s is to begin with |
//! | [`token`] | the token k3s is started with, while another takes its place |
//! | [`labels`] | SELinux labels of what was written |

pub(crate) mod hostname;
pub(crate) mod k3s;
pub(crate) mod keyfile;
pub(crate) mod labels;
pub(crate) mod network;
pub(crate) mod restore;
pub(crate) mod token;
pub(crate) mod users;
