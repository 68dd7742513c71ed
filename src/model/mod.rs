//! Linear regression over a query: a QR factor reduced chunk by chunk, solved by linfa.
