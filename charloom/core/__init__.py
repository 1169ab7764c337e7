"""What every layer uses: errors, canonical values, the store, files, text. Imports no other package of charloom."""
