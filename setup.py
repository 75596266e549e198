"""What a wheel carries besides code: the folders configs and checkpoints, inside the package sculpting_nerf."""

from setuptools import find_packages, setup

PACKAGES = ["eg3d*", "reward_model_training*", "dataset_preprocessing*", "paper_result_analyses*", "sculpting_nerf*"]

setup(
    packages=[*find_packages(include=PACKAGES), "sculpting_nerf.configs", "sculpting_nerf.checkpoints"],
    package_dir={"sculpting_nerf.configs": "configs", "sculpting_nerf.checkpoints": "checkpoints"},
    package_data={
        "": ["py.typed"],
        "eg3d.ops": ["*.h", "*/*.h", "*/*.cpp", "*/*.cu"],
        "sculpting_nerf.configs": ["*.yaml", "*/*.yaml"],
        "sculpting_nerf.checkpoints": ["*.json", "*.md", "*.safetensors", "*.npz", "*/*.safetensors", "*/*.yaml"],
    },
    include_package_data=False,
)
