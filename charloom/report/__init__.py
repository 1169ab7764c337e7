"""What people look at: grids of samples (``grid``) and the page about a character (``html``)."""
