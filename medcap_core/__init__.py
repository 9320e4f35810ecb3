"""Medical image captioning: data, models, training and scoring of one trial."""
