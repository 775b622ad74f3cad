"""Abstract execution: values, paths, calls and what is followed; it knows no framework."""
