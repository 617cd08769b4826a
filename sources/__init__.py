"""Where rows come from: files, one module a format, and what reads them in step."""
