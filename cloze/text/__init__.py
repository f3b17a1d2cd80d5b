"""Files and data sets -> documents."""
