"""Pictures in, predictions out: data sets, post-processing and drawing."""
