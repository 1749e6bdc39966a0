//! Submission and completion queues and a bulk arena in memory that two ends share and neither trusts.
