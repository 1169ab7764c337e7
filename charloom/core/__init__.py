"""What every layer uses: errors, canonical values, the store, files, text. Depends on no other package of charloom."""
