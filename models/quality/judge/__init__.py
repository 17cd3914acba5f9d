"""Sets of images judged by features and by anatomy that none of our networks has seen."""
