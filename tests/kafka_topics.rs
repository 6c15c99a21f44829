//! The topics on a real broker.

mod broker;

#[test]
fn a_broker_comes_back() {
    let Some(shared) = broker::shared() else {
        return;
    };
    let Some(own) = broker::own(&[]) else { return };
    assert_ne!(shared.address(), own.address());
    own.kill9();
    own.up();
}
