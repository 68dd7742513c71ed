//! Batch SQL over the tables of job files, over paths, and over bounded ranges of Kafka tables.
