//! `--device`.

use seed_core::Device;

use crate::world::{World, done, fails, program, text};

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let world = World::new();
    for device in ["cuda:99", "wgpu:99"] {
        let message = format!("device {device} is not available");
        fails(world.seed("encode").args(["--device", device, "x"]), 1, &[&message]);
        fails(program().args(["bench", "--device", device]), 1, &[&message]);
    }
    for feature in Device::features_left_out() {
        fails(world.seed("encode").args(["--device", feature, "x"]), 1, &[&format!("--features {feature}")]);
    }
}

#[test]
fn inspect_lists_the_devices() {
    let world = World::new();
    let output = text(&done(&mut world.seed("inspect")).stdout);
    let line = output.lines().find(|line| line.starts_with("devices ")).unwrap();
    for found in Device::found() {
        assert!(line.contains(&found.to_string()), "{line}");
    }
    let left_out = Device::features_left_out();
    assert_eq!(output.contains("not in this build"), !left_out.is_empty(), "{output}");
    assert!(output.contains(&left_out.join(",")), "{output}");
    let facts: serde_json::Value = serde_json::from_slice(&done(world.seed("inspect").arg("--json")).stdout).unwrap();
    assert_eq!(facts["devices"].as_array().unwrap().len(), Device::found().len());
    assert_eq!(facts["not_in_this_build"], serde_json::json!(left_out));
}
