"""Records on disk, the tables derived from them, figures and the HTML report. No torch."""
