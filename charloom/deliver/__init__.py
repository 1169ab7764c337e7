"""What leaves the workflow: ComfyUI workflows, a client of its server, bundles that another machine retrains from."""
