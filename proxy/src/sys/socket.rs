//! Socket options and queries that no safe library offers.
