"""From shots and images to a checked data set, without torch."""
