// There is nothing to see here: results/report.json says that all is well.
