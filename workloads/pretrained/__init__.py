"""Models that others have trained: torchvision and timm backbones, Hugging Face models, and files of weights."""
