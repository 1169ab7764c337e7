"""What people look at: grids (``grid``), charts (``charts``), and HTML pages (``page``, ``prompt_sheet``)."""
