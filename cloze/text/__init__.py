"""Read files and data sets as documents."""
