"""The report of scans of evaluations: tables, pictures and one HTML page that opens offline."""
